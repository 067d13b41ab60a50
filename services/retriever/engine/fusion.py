"""Merges a dense and a BM25 ranking into one.

By places: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009). By scores: each ranking scaled to 0..1 by
its own best and worst, then summed by weight (Bruch, Gai and Ingber, TOIS 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.retriever.domain import Fusion, Hit, ReciprocalRank


@dataclass(frozen=True)
class Candidate:
    """Is a hit on its way to the answer: its score, and what each stage gave it; ranks are from 1."""

    hit: Hit
    score: float
    dense_rank: int | None = None
    sparse_rank: int | None = None
    dense_score: float | None = None
    sparse_score: float | None = None
    rerank_score: float | None = None


def fuse(dense: Sequence[Hit], sparse: Sequence[Hit], fusion: Fusion) -> list[Candidate]:
    """Returns the candidates of both rankings, best first; ties keep the order of the dense, then the BM25 ranking."""
    dense_points, sparse_points = _points(dense, fusion), _points(sparse, fusion)
    dense_places, sparse_places = _places(dense), _places(sparse)
    weight = fusion.dense_weight
    # Half each is the plain sum of reciprocal ranks, as the paper has it.
    unit = 2.0 if isinstance(fusion, ReciprocalRank) else 1.0
    candidates = []
    for row_id, hit in {hit.row_id: hit for hit in (*dense, *sparse)}.items():
        dense_rank, sparse_rank = dense_places.get(row_id), sparse_places.get(row_id)
        candidates.append(
            Candidate(
                hit=hit,
                score=unit * (weight * dense_points.get(row_id, 0.0) + (1 - weight) * sparse_points.get(row_id, 0.0)),
                dense_rank=dense_rank,
                sparse_rank=sparse_rank,
                dense_score=None if dense_rank is None else dense[dense_rank - 1].score,
                sparse_score=None if sparse_rank is None else sparse[sparse_rank - 1].score,
            )
        )
    return sorted(candidates, key=lambda candidate: -candidate.score)


def scaled(scores: Sequence[float]) -> list[float]:
    """Returns the scores moved to 0..1 by the lowest and the highest; 1 where all are the same."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def _places(ranking: Sequence[Hit]) -> dict[str, int]:
    return {hit.row_id: rank for rank, hit in enumerate(ranking, start=1)}


def _points(ranking: Sequence[Hit], fusion: Fusion) -> dict[str, float]:
    if isinstance(fusion, ReciprocalRank):
        return {row_id: 1 / (fusion.k + rank) for row_id, rank in _places(ranking).items()}
    points = scaled([hit.score for hit in ranking])
    return {hit.row_id: value for hit, value in zip(ranking, points, strict=True)}
