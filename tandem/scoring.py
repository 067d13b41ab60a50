"""Scores answers: exact match and token F1 as SQuAD counts them (arXiv 1606.05250), abstention, classes, intervals.

Intervals are percentile bootstraps (Efron 1979). Questions about one document
are not independent, so where groups are given whole groups are drawn.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tandem.prompts import ABSTENTION

T = TypeVar("T")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
NUM_RESAMPLES = 2000


def normalise(text: str) -> str:
    """Returns the text in lower case without punctuation, articles and repeated blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """Returns 1.0 where the answer equals one of the golds after normalising, else 0.0."""
    return float(any(normalise(answer) == normalise(gold) for gold in golds))


def f1(answer: str, golds: Sequence[str]) -> float:
    """Returns the best token F1 of the answer against the golds, 0 to 1."""
    return max((_f1(normalise(answer).split(), normalise(gold).split()) for gold in golds), default=0.0)


def _f1(answer: list[str], gold: list[str]) -> float:
    common = sum((Counter(answer) & Counter(gold)).values())
    if not common:
        return float(answer == gold)
    return 2 * common / (len(answer) + len(gold))


def abstains(answer: str) -> bool:
    """Tells whether the answer is none: empty, or beginning with the abstention that the prompts ask for."""
    plain = normalise(answer)
    return not plain or plain.startswith(normalise(ABSTENTION))


def accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the share of (predicted, true) pairs that agree; 0 where there are none."""
    return sum(predicted == true for predicted, true in pairs) / len(pairs) if pairs else 0.0


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the mean F1 over the classes that are true at least once in the (predicted, true) pairs, 0 to 1.

    A prediction that is no class of theirs counts as missed; 0 where there are no pairs.
    """
    predicted, true, hits = Counter[str](), Counter[str](), Counter[str]()
    for said, is_true in pairs:
        predicted[said] += 1
        true[is_true] += 1
        hits[is_true] += said == is_true
    if not true:
        return 0.0
    return sum(2 * hits[name] / (predicted[name] + count) for name, count in true.items()) / len(true)


@dataclass(frozen=True)
class Interval:
    """Is a figure with the bounds of its interval, in the figure's own unit."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values: Sequence[float]) -> float:
    """Returns the mean; 0 where there are no values."""
    return sum(values) / len(values) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share of the values lies, between neighbours in proportion; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def bootstrap(
    rows: Sequence[T],
    statistic: Callable[[Sequence[T]], float],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the statistic of the rows with its bootstrap interval.

    With `groups`, one for each row, whole groups are drawn. The same seed gives
    the same interval. Fewer than two groups (or rows) tell nothing about the
    spread: the bounds are then the widest a share can have, -1 to 1.
    """
    units = _units(rows, groups)
    value = statistic(rows)
    if len(units) < 2:
        return Interval(value, -1.0, 1.0)
    draw = Random(seed)  # noqa: S311  (resampling)
    found = sorted(
        statistic([row for unit in draw.choices(units, k=len(units)) for row in unit]) for _ in range(num_resamples)
    )
    return Interval(value, *_bounds(found, level))


def mean_interval(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the mean of the values with its bootstrap interval; what `bootstrap` says of groups holds."""
    units = [(sum(unit), len(unit)) for unit in _units(values, groups)]
    if len(units) < 2:
        return Interval(mean(values), -1.0, 1.0)
    draw = Random(seed)  # noqa: S311  (resampling)
    found = []
    for _ in range(num_resamples):
        drawn = draw.choices(units, k=len(units))
        found.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    return Interval(mean(values), *_bounds(sorted(found), level))


def paired_interval(
    values: Sequence[float],
    others: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns by how much the first mean is above the second, both measured on the same questions in the same order.

    Raises ValueError where they are not of one length.
    """
    gains = [value - other for value, other in zip(values, others, strict=True)]
    return mean_interval(gains, groups=groups, level=level, num_resamples=num_resamples, seed=seed)


def _units(rows: Sequence[T], groups: Sequence[Hashable] | None) -> list[list[T]]:
    if groups is None:
        return [[row] for row in rows]
    units: dict[Hashable, list[T]] = {}
    for row, group in zip(rows, groups, strict=True):
        units.setdefault(group, []).append(row)
    return list(units.values())


def _bounds(found: Sequence[float], level: float) -> tuple[float, float]:
    """Returns the percentiles that leave (1 - level) / 2 of the sorted values on either side."""
    tail = (1 - level) / 2
    last = len(found) - 1
    return found[round(tail * last)], found[round((1 - tail) * last)]
