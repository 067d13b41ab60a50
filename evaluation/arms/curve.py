"""What a cascade would be worth at other thresholds, from answers that are there already."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.answers.answered import Answered
from evaluation.arms.figures import Column
from tandem.scoring import mean

_NUM_POINTS = 21


@dataclass(frozen=True)
class Point:
    """Is a threshold: the share of drafts accepted from it on, and the means of all answers then."""

    threshold: float
    accepted: float
    accuracy: float
    calls: float
    tokens: float
    cost: float | None


def sweep(drafts: Sequence[Answered], own: Column, evidence: Column) -> list[Point]:
    """Returns the points from accepting nothing to accepting every draft that is none of an abstention.

    An escalated question costs both paths. How sure a draft is: `confidence_of`.
    """
    sure = [confidence_of(draft) for draft in drafts]
    known = sorted({one for one in sure if one is not None}, reverse=True)
    if not known:
        return []
    places = sorted({round(step * len(known) / (_NUM_POINTS - 1)) for step in range(_NUM_POINTS)} - {0})
    thresholds = [math.inf, *(known[place - 1] for place in places)]
    return [_point(threshold, sure, own, evidence) for threshold in thresholds]


def confidence_of(draft: Answered) -> float | None:
    """Returns a draft's confidence as the router told it, else the geometric mean of its tokens' probabilities.

    None where neither is known, or the draft abstains.
    """
    if draft.abstained or draft.error:
        return None
    if draft.confidence is not None:
        return draft.confidence
    logprob = draft.signals.get("mean_logprob")
    return None if logprob is None else math.exp(min(0.0, logprob))


def _point(threshold: float, sure: Sequence[float | None], own: Column, evidence: Column) -> Point:
    taken = [one is not None and one >= threshold for one in sure]

    def price(name: str) -> float:
        pairs = zip(taken, own.values[name], evidence.values[name], strict=True)
        return mean([mine if kept else mine + theirs for kept, mine, theirs in pairs])

    pairs = zip(taken, own.values["accuracy"], evidence.values["accuracy"], strict=True)
    return Point(
        threshold=threshold,
        accepted=mean([float(kept) for kept in taken]),
        accuracy=mean([mine if kept else theirs for kept, mine, theirs in pairs]),
        calls=price("calls"),
        tokens=price("tokens"),
        cost=price("cost") if own.values["cost"] and evidence.values["cost"] else None,
    )
