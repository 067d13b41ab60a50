"""Scores rankings as trec_eval does: nDCG with linear gains (Järvelin and Kekäläinen 2002), and recall."""

import math
from collections.abc import Callable, Mapping, Sequence

Judgements = Mapping[str, int]
"""Grades of documents for one query; what is not there, or at most 0, is not relevant."""


def ndcg(ranking: Sequence[str], judgements: Judgements, *, depth: int) -> float:
    """Returns the gain of the first documents, discounted by log2(1 + place), against that of the best order.

    0 where nothing is relevant. Raises ValueError where a document occurs twice.
    """
    _check(ranking)
    ideal = _gain(sorted((grade for grade in judgements.values() if grade > 0), reverse=True)[:depth])
    return _gain([max(0, judgements.get(name, 0)) for name in ranking[:depth]]) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], judgements: Judgements, *, depth: int) -> float:
    """Returns the share of the relevant documents that are among the first; 0 where nothing is relevant.

    Raises ValueError where a document occurs twice.
    """
    _check(ranking)
    relevant = {name for name, grade in judgements.items() if grade > 0}
    return len(relevant.intersection(ranking[:depth])) / len(relevant) if relevant else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades, 1))


def _check(ranking: Sequence[str]) -> None:
    if len(set(ranking)) != len(ranking):
        raise ValueError("a document occurs twice in the ranking")


METRICS: dict[str, Callable[[Sequence[str], Judgements], float]] = {
    "ndcg@10": lambda ranking, judgements: ndcg(ranking, judgements, depth=10),
    "recall@10": lambda ranking, judgements: recall(ranking, judgements, depth=10),
    "recall@100": lambda ranking, judgements: recall(ranking, judgements, depth=100),
}
