"""Measures confidences against what was right: expected calibration error, reliability, AUROC."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

NUM_BINS = 10
_NORMAL = 1.959964
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Bin:
    """Is one of equally wide ranges of confidence; low and high bound the share of right answers in it (95 %)."""

    confidence: float
    correct: float
    num: int
    low: float
    high: float


def reliability(confidence: Any, correct: Any, num_bins: int = NUM_BINS) -> list[Bin]:
    """Returns the bins that hold something, by confidence; bounds are Wilson's (1927)."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    places = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    found = []
    for place in np.unique(places):
        inside = places == place
        num, right = int(inside.sum()), float(correct[inside].mean())
        found.append(Bin(float(confidence[inside].mean()), right, num, *wilson(right, num)))
    return found


def ece(confidence: Any, correct: Any, num_bins: int = NUM_BINS) -> float:
    """Returns the expected calibration error over equally wide bins (Naeini et al. 2015; Guo et al. 2017), 0 to 1."""
    bins = reliability(confidence, correct, num_bins)
    num = sum(one.num for one in bins)
    return sum(one.num * abs(one.confidence - one.correct) for one in bins) / num if num else 0.0


def auroc(scores: Any, positive: Any) -> float | None:
    """Returns the chance that a positive scores above a negative, ties half; None where one kind is missing.

    It is the Mann-Whitney statistic (Hanley and McNeil 1982).
    """
    positive = np.asarray(positive, dtype=bool)
    num, others = int(positive.sum()), int((~positive).sum())
    if not num or not others:
        return None
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[positive].sum() - num * (num + 1) / 2) / (num * others))


def wilson(share: float, num: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a share of `num` (Wilson 1927)."""
    square = _NORMAL**2
    middle = (share + square / (2 * num)) / (1 + square / num)
    half = _NORMAL * math.sqrt(share * (1 - share) / num + square / (4 * num**2)) / (1 + square / num)
    return max(0.0, middle - half), min(1.0, middle + half)
