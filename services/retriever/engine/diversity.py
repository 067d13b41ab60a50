"""Maximal marginal relevance: Carbonell and Goldstein, SIGIR 1998."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from services.retriever.domain import Vector
from services.retriever.engine.fusion import Candidate, scaled


def diversify(
    candidates: Sequence[Candidate], vectors: Mapping[str, Vector], *, diversity: float, top_k: int
) -> list[Candidate]:
    """Returns top_k candidates, each the best of the rest by (1 - diversity) * relevance - diversity * similarity.

    Relevance is the score scaled to 0..1; similarity is the cosine to the nearest one chosen before, at least 0, and 0
    for a candidate without a vector. The new scores never rise along the result.
    """
    relevance = scaled([candidate.score for candidate in candidates])
    similarity = _similarities(candidates, vectors)
    nearest = [0.0] * len(candidates)
    left = list(range(len(candidates)))
    chosen: list[Candidate] = []
    while left and len(chosen) < top_k:
        worth = {at: (1 - diversity) * relevance[at] - diversity * nearest[at] for at in left}
        best = max(left, key=worth.__getitem__)
        left.remove(best)
        chosen.append(replace(candidates[best], score=worth[best]))
        for at in left:
            nearest[at] = max(nearest[at], similarity[best][at])
    return chosen


def _similarities(candidates: Sequence[Candidate], vectors: Mapping[str, Vector]) -> list[list[float]]:
    dimension = len(next(iter(vectors.values()), ()))
    rows = [vectors.get(candidate.hit.row_id, [0.0] * dimension) for candidate in candidates]
    matrix = np.asarray(rows, dtype=np.float64).reshape(len(candidates), dimension)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = matrix / np.where(lengths > 0, lengths, 1.0)
    cosines: list[list[float]] = np.maximum(matrix @ matrix.T, 0.0).tolist()
    return cosines
