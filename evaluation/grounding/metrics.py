"""Tells how well a score separates two classes, and what the trivial scores are."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from itertools import accumulate
from random import Random

from tandem.scoring import Interval

_WORD = re.compile(r"\w+")


def auroc(scores: Sequence[float], supported: Sequence[bool]) -> float:
    """Returns the chance that a supported answer scores above one that is not, ties counting half (Hanley and McNeil
    1982); 0.5 where one class is missing."""
    yes = [score for score, is_yes in zip(scores, supported, strict=True) if is_yes]
    no = sorted(score for score, is_yes in zip(scores, supported, strict=True) if not is_yes)
    if not yes or not no:
        return 0.5
    return sum(bisect_left(no, score) + bisect_right(no, score) for score in yes) / (2 * len(yes) * len(no))


class Draws:
    """Resamples groups of answers, the same draws for every score, so that differences are paired."""

    def __init__(self, supported: Sequence[bool], groups: Sequence[Hashable], *, num: int = 1000, seed: int = 0):
        self._supported = supported
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self._group = [numbers[group] for group in groups]
        draw = Random(seed)  # noqa: S311  (resampling)
        self._counts = []
        for _ in range(num if len(numbers) > 1 else 0):
            counts = [0] * len(numbers)
            for chosen in draw.choices(range(len(numbers)), k=len(numbers)):
                counts[chosen] += 1
            self._counts.append(counts)

    def aurocs(self, scores: Sequence[float]) -> list[float]:
        """Returns the AUROC of each draw."""
        order = sorted(range(len(scores)), key=scores.__getitem__)
        return [self._one([(scores[row], row) for row in order], counts) for counts in self._counts]

    def _one(self, ordered: Sequence[tuple[float, int]], counts: Sequence[int]) -> float:
        below, above = 0, 0
        wins = 0.0
        at = 0
        while at < len(ordered):
            score, yes, no = ordered[at][0], 0, 0
            while at < len(ordered) and ordered[at][0] == score:
                row = ordered[at][1]
                weight = counts[self._group[row]]
                yes, no = (yes + weight, no) if self._supported[row] else (yes, no + weight)
                at += 1
            wins += yes * (below + no / 2)
            below, above = below + no, above + yes
        return wins / (below * above) if below and above else 0.5


def interval(value: float, draws: Sequence[float]) -> Interval:
    """Returns a figure with the 95 % percentile interval of its draws; the widest there is where there are none."""
    if not draws:
        return Interval(value, -1.0, 1.0)
    found, last = sorted(draws), len(draws) - 1
    return Interval(value, found[round(0.025 * last)], found[round(0.975 * last)])


def length(answer: str) -> float:
    """Returns minus the number of characters: shorter answers are more often right."""
    return -float(len(answer))


def overlap(answer: str, context: Sequence[str]) -> float:
    """Returns the share of the answer's words, repeated ones each time, that the context holds; 0 of no words."""
    known = set(_WORD.findall(" ".join(context).lower()))
    words = _WORD.findall(answer.lower())
    return sum(word in known for word in words) / len(words) if words else 0.0


def curve(scores: Sequence[float], supported: Sequence[bool]) -> list[tuple[float, float]]:
    """Returns the ROC curve: (share of the unsupported taken, share of the supported taken), from (0, 0) to (1, 1)."""
    rows = sorted(zip(scores, supported, strict=True), key=lambda row: -row[0])
    num_yes = sum(supported) or 1
    num_no = len(supported) - sum(supported) or 1
    yes = list(accumulate((is_yes for _, is_yes in rows), initial=0))
    ends = [at + 1 for at in range(len(rows)) if at + 1 == len(rows) or rows[at + 1][0] != rows[at][0]]
    return [(0.0, 0.0), *(((end - yes[end]) / num_no, yes[end] / num_yes) for end in ends)]
