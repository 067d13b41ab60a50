"""From labelled answers to a calibration: split by group, fit on one part, certify and measure on the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.calibration.certifying import Certificate, Judged, certify, judged, sequence, upper_bound
from evaluation.calibration.measures import Bin, auroc, ece, reliability
from evaluation.calibration.model import Model, fit
from evaluation.calibration.rows import Row, shared_features
from tandem.errors import InvalidInput
from tandem.scoring import Interval, bootstrap, mean_interval

MIN_QUESTIONS = 300
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Holds what was asked for."""

    risk: float = 0.1
    """Greatest share of wrong answers among the accepted, of (0, 1)."""
    level: float = 0.95
    """Chance that this holds, over the choice of the questions, of (0, 1): 1 - delta."""
    features: tuple[str, ...] | None = None
    """Features to use; None takes all that every answer has."""
    isotonic: bool = False
    fitting_share: float = 0.4
    """Share of the groups that the confidence is fitted on; the others certify and measure."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Is what was fitted and found."""

    model: Model
    certificate: Certificate
    wish: Wish
    num_questions: int
    num_fitted: int
    num_certifying: int
    num_abstained: int
    """Answers of the certifying part that abstain; they are accepted at no threshold."""
    num_groups: int
    accuracy: float
    accepted: Interval
    risk: Interval | None
    ece_before: float | None
    ece_after: float
    auroc: Interval | None
    bins_before: list[Bin]
    bins_after: list[Bin]
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Returns what the artefact holds of it."""
        measured = {
            "num_questions": self.num_questions,
            "num_fitted": self.num_fitted,
            "num_certifying": self.num_certifying,
            "num_groups": self.num_groups,
            "accuracy": self.accuracy,
            "accepted": measure(self.accepted),
            "risk": None if self.risk is None else measure(self.risk),
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
            "auroc": None if self.auroc is None else measure(self.auroc),
        }
        return {
            **self.model.document(),
            "threshold": self.certificate.threshold,
            "risk": self.wish.risk,
            "level": self.wish.level,
            "measured": measured,
        }


def measure(found: Interval) -> dict[str, float]:
    """Returns an interval as the artefact holds it."""
    return {"value": float(found.value), "low": float(found.low), "high": float(found.high)}


def calibrate(rows: Sequence[Row], wish: Wish, *, fit_too: Sequence[Row] = ()) -> Calibration:
    """Fits, certifies and measures; raises InvalidInput where there are too few questions or nothing to tell from.

    `fit_too` are answers that were not drawn at random, such as those that people judged: the confidence is fitted on
    them too, but they never certify.
    """
    _check(rows, wish)
    fitting, certifying = split(rows, share=wish.fitting_share, seed=wish.seed)
    fitting += fit_too
    given, held = [row for row in fitting if not row.abstained], [row for row in certifying if not row.abstained]
    if not given or not held:
        raise InvalidInput("hardly any answer is one: the adapter abstains. Calibrate an adapter that answers")
    names, notes = shared_features(rows, wish.features)
    model, unseen = fit(
        _matrix(given, names),
        [row.correct for row in given],
        [row.group for row in given],
        names,
        isotonic=wish.isotonic,
        seed=wish.seed,
    )
    notes += [f"{name} is left out: it is the same in all answers" for name in names if name not in model.names]
    confidence = model.confidence(_matrix(held, model.names))
    answers = _judged(held, confidence)
    num_groups = len(np.unique(answers.groups))
    order = sequence(_judged(given, unseen), num_groups, risk=wish.risk)
    certificate = certify(answers, order, risk=wish.risk, delta=1 - wish.level)
    if (least := least_groups(wish)) > num_groups:
        notes.append(f"{num_groups} groups certify; {least} are needed even if no answer is wrong: add questions")
    return _measured(model, certificate, wish, rows, fitting, certifying, held, confidence, notes)


def split(rows: Sequence[Row], *, share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Returns the rows of a share of the groups, drawn by the seed, and the others."""
    groups = sorted({row.group for row in rows})
    num = min(max(1, round(share * len(groups))), len(groups) - 1)
    drawn = np.random.default_rng(seed).permutation(len(groups))[:num]
    first = {groups[place] for place in drawn}
    return [row for row in rows if row.group in first], [row for row in rows if row.group not in first]


def least_groups(wish: Wish) -> int:
    """Returns how many groups can certify anything: without a wrong answer the p-value of n is (1 - risk)^n."""
    return math.ceil(math.log(1 - wish.level) / math.log(1 - wish.risk))


def _check(rows: Sequence[Row], wish: Wish) -> None:
    if (missing := MIN_QUESTIONS - len(rows)) > 0:
        raise InvalidInput(
            f"{len(rows)} labelled questions are too few to certify a threshold: {missing} more are needed, "
            f"{MIN_QUESTIONS} in all"
        )
    if len({row.group for row in rows}) < 2:
        raise InvalidInput("all questions are of one group, which cannot be split; name groups that are independent")
    for name, value in (("risk", wish.risk), ("level", wish.level), ("fitting_share", wish.fitting_share)):
        if not 0 < value < 1:
            raise InvalidInput.of(name, f"is more than 0 and less than 1, not {value:g}")


def _matrix(rows: Sequence[Row], names: Sequence[str]) -> Any:
    return np.array([[row.features[name] for name in names] for row in rows], dtype=np.float64).reshape(
        len(rows), len(names)
    )


def _judged(rows: Sequence[Row], confidence: Any) -> Judged:
    return judged(confidence, np.array([not row.correct for row in rows]), [row.group for row in rows])


def _measured(
    model: Model,
    certificate: Certificate,
    wish: Wish,
    rows: Sequence[Row],
    fitting: Sequence[Row],
    certifying: Sequence[Row],
    held: Sequence[Row],
    confidence: Any,
    notes: list[str],
) -> Calibration:
    """Measures on the certifying part."""
    correct = [row.correct for row in held]
    known = all("mean_logprob" in row.features for row in held)
    before = np.exp(np.minimum(0.0, [row.features["mean_logprob"] for row in held])) if known else None
    return Calibration(
        model=model,
        certificate=certificate,
        wish=wish,
        num_questions=len(rows),
        num_fitted=len(fitting),
        num_certifying=len(certifying),
        num_abstained=len(certifying) - len(held),
        num_groups=len({row.group for row in certifying}),
        accuracy=sum(correct) / len(certifying),
        accepted=_accepted(certificate, certifying, held, confidence, seed=wish.seed),
        risk=_risk(certificate),
        ece_before=None if before is None else ece(before, correct),
        ece_after=ece(confidence, correct),
        auroc=separation(confidence.tolist(), correct, [row.group for row in held], seed=wish.seed),
        bins_before=[] if before is None else reliability(before, correct),
        bins_after=reliability(confidence, correct),
        notes=notes,
    )


def _accepted(
    certificate: Certificate, certifying: Sequence[Row], held: Sequence[Row], confidence: Any, *, seed: int
) -> Interval:
    """Returns the share of all questions whose answer is accepted; those abstained from count as not accepted."""
    if certificate.threshold is None:
        return Interval(0.0, 0.0, 0.0)
    taken = {row.question_id for row, sure in zip(held, confidence, strict=True) if sure >= certificate.threshold}
    flags = [float(row.question_id in taken) for row in certifying]
    return mean_interval(flags, groups=[row.group for row in certifying], num_resamples=_NUM_RESAMPLES, seed=seed)


def _risk(certificate: Certificate) -> Interval | None:
    """Returns the measured risk at the threshold; its bounds are the risks that Hoeffding-Bentkus leaves at 2.5 %.

    A bootstrap of answers that are all right would have no width.
    """
    last = [step for step in certificate.steps if step.certified][-1:]
    if not last:
        return None
    risk, num = last[0].risk, last[0].num_groups
    return Interval(risk, 1 - upper_bound(1 - risk, num, 0.025), upper_bound(risk, num, 0.025))


def separation(
    scores: Sequence[float], positive: Sequence[bool], groups: Sequence[str], *, seed: int
) -> Interval | None:
    """Returns the AUROC with its interval, groups drawn as a whole; None where one kind is missing.

    A draw without one of the kinds counts as 0.5.
    """
    pairs = list(zip(scores, positive, strict=True))

    def area(drawn: Sequence[tuple[float, bool]]) -> float:
        found = auroc(*zip(*drawn, strict=True))
        return 0.5 if found is None else found

    if len(set(positive)) < 2:
        return None
    found = bootstrap(pairs, area, groups=groups, num_resamples=_NUM_RESAMPLES, seed=seed)
    return Interval(found.value, max(0.0, found.low), found.high) if math.isfinite(found.value) else None
