"""Certifies a threshold of confidence: Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052).

For a threshold t the hypothesis is that more than `risk` of the answers accepted from t on are wrong. A p-value against
it is the Hoeffding-Bentkus bound (Bates et al. 2021, arXiv 2101.02703, section 3.1, used in 2110.01052, section 2). The
thresholds are tested from strict to lax in an order that was fixed before on other questions, each at delta, until one
fails: fixed-sequence testing, which keeps the chance of any false certificate at delta. With it, whatever the
distribution and whatever the confidence is worth, the share of wrong answers among the accepted is at most `risk` with
a chance of at least 1 - delta over the choice of the questions.

Questions of one group (paraphrases of one fact) are not independent, so the unit is the group: its loss is the share of
wrong answers among its accepted ones, 0 to 1. Where each question is its own group this is the plain share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
_NUM_STEPS = 40
_DECIMALS = 6


@dataclass(frozen=True)
class Step:
    """Is one tested threshold; num_groups are those of which an answer is accepted, risk the mean of their losses."""

    threshold: float
    num_accepted: int
    num_wrong: int
    num_groups: int
    risk: float
    p_value: float
    certified: bool


@dataclass(frozen=True)
class Certificate:
    """Is the outcome: the laxest certified threshold, None where there is none, and the steps tested in order."""

    threshold: float | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Judged:
    """Holds answers with their confidence, (N,), and the number of their group: 0, 1 ... without a gap."""

    confidence: Floats
    wrong: Flags
    groups: NDArray[np.int64]

    def at(self, thresholds: Floats) -> tuple[Any, Any, Any, Floats]:
        """Returns for each threshold: answers accepted, wrong among them, groups accepted from, mean loss (0 of none).

        Each is (T,).
        """
        order = np.argsort(self.groups, kind="stable")
        starts = np.flatnonzero(np.diff(self.groups[order], prepend=-1))  # (G,)
        accepted = (self.confidence[order] >= thresholds[:, None]).astype(np.int64)  # (T, N)
        taken = np.add.reduceat(accepted, starts, axis=1)  # (T, G)
        wrong = np.add.reduceat(accepted * self.wrong[order], starts, axis=1)
        present = (taken > 0).sum(axis=1)
        losses = (wrong / np.maximum(taken, 1)).sum(axis=1) / np.maximum(present, 1)
        return taken.sum(axis=1), wrong.sum(axis=1), present, losses


def judged(confidence: Floats, wrong: Flags, groups: Sequence[str]) -> Judged:
    """Returns the answers with their groups numbered."""
    return Judged(confidence, wrong, np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1])


def hoeffding_bentkus(mean_loss: Any, num: Any, risk: Any) -> Floats:
    """Returns p-values, (T,), against "the expected loss is more than `risk`"; losses are independent and of [0, 1].

    min(exp(-n h1(min(r, a), a)), e P(Bin(n, a) <= ceil(n r))), h1(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)), with r
    the mean loss of n; 1 where nothing was seen. arXiv 2101.02703, section 3.1. `risk` is of (0, 1).
    """
    loss, count = np.asarray(mean_loss, dtype=np.float64), np.asarray(num, dtype=np.float64)
    held = np.minimum(loss, risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(held > 0, held * np.log(held / risk), 0.0)
        high = np.where(held < 1, (1 - held) * np.log((1 - held) / (1 - risk)), 0.0)
    hoeffding = np.exp(-count * (low + high))
    # A sum of shares may miss a whole number by a rounding error, which would count one wrong answer too many.
    bentkus = math.e * binom.cdf(np.ceil(count * loss - 1e-9), np.floor(count), risk)
    found: Floats = np.where(count < 1, 1.0, np.minimum(1.0, np.minimum(hoeffding, bentkus)))
    return found


def upper_bound(mean_loss: float, num: int, delta: float) -> float:
    """Returns the least risk that is refuted at delta and all above it: an upper bound of the expected loss."""
    low, high = mean_loss, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if not 0 < middle < 1 or float(hoeffding_bentkus(mean_loss, num, middle)) > delta:
            low = middle
        else:
            high = middle
    return high


def sequence(fitted: Judged, num_groups: int, *, risk: float) -> Floats:
    """Returns the thresholds to test, strict to lax; it may look at the fitted questions alone.

    Candidates accept 1/40, 2/40 ... of the fitted answers. Among too few accepted nothing can be certified, so the
    sequence starts at the candidate whose p-value would be least, had the `num_groups` certifying groups the fitted
    ones' losses, (wrong + 1) / (all + 2) after Laplace, lest few that happen to be right look best: learning the order
    on a split of its own, as 2110.01052 proposes.
    """
    if not len(fitted.confidence):
        return np.empty(0)
    shares = np.arange(1, _NUM_STEPS + 1) / _NUM_STEPS
    found = np.quantile(fitted.confidence, 1 - shares, method="lower")
    thresholds = np.unique(np.floor(found * 10**_DECIMALS) / 10**_DECIMALS)[::-1]
    _, _, present, losses = fitted.at(thresholds)
    scale = num_groups / max(1, len(np.unique(fitted.groups)))
    cautious = (losses * present + 1) / (present + 2)
    expected = hoeffding_bentkus(cautious, np.floor(present * scale), risk)
    return thresholds[int(np.argmin(expected)) :]


def certify(answers: Judged, thresholds: Floats, *, risk: float, delta: float) -> Certificate:
    """Tests the thresholds in their order, each at delta, until one fails."""
    if not len(thresholds) or not len(answers.confidence):
        return Certificate(None, ())
    accepted, wrong, present, losses = answers.at(thresholds)
    p_values = hoeffding_bentkus(losses, present, risk)
    steps: list[Step] = []
    for place, threshold in enumerate(thresholds):
        passed = bool(p_values[place] <= delta)
        steps.append(
            Step(
                float(threshold),
                int(accepted[place]),
                int(wrong[place]),
                int(present[place]),
                float(losses[place]),
                float(p_values[place]),
                passed,
            )
        )
        if not passed:
            break
    kept = [step.threshold for step in steps if step.certified]
    return Certificate(kept[-1] if kept else None, tuple(steps))
