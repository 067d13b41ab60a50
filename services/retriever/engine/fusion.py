"""Merges a dense and a BM25 ranking into one.

By places: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009).

By scores: a convex combination (Bruch, Gai and Ingber, TOIS 2023) of the cosine as it is and of BM25 in tenths of what
it is on average among the query's best hits, so that BM25 counts for more where few chunks stand out by their words. A
chunk that a ranking lacks has the score of the ranking's last place there, the most that it can have. Were it 0, what
one ranking alone knows would sink below all that is in both, and the outcome would hang on how deep the rankings are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.retriever.domain import Fusion, Hit, ReciprocalRank, Weighted

_AVERAGED = 40  # places, the least that are ranked: so the scale is the same however deep a search looks
_MEAN_IS_WORTH = 0.1  # of cosine


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


def fuse(dense: Sequence[Hit], sparse: Sequence[Hit], fusion: Fusion, *, sparse_ended: bool = False) -> list[Candidate]:
    """Returns the candidates of both rankings, best first.

    Ties keep the order of the ranking with the greater share, the dense one at half each, then of the other.
    sparse_ended: the BM25 ranking is no longer because no other chunk has a word of the query.
    """
    first, second = (dense, sparse) if fusion.dense_weight >= 0.5 else (sparse, dense)
    hits = {hit.row_id: hit for hit in (*first, *second)}
    if isinstance(fusion, ReciprocalRank):
        scores = _by_places(hits, dense, sparse, fusion)
    else:
        scores = _by_scores(hits, dense, sparse, fusion, sparse_ended=sparse_ended)
    dense_places, sparse_places = _places(dense), _places(sparse)
    candidates = []
    for row_id, hit in hits.items():
        dense_rank, sparse_rank = dense_places.get(row_id), sparse_places.get(row_id)
        candidates.append(
            Candidate(
                hit=hit,
                score=scores[row_id],
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


def _by_places(
    hits: Mapping[str, Hit], dense: Sequence[Hit], sparse: Sequence[Hit], fusion: ReciprocalRank
) -> dict[str, float]:
    scores = dict.fromkeys(hits, 0.0)
    # Half each is the plain sum of reciprocal ranks, as the paper has it.
    for ranking, share in ((dense, 2 * fusion.dense_weight), (sparse, 2 * (1 - fusion.dense_weight))):
        for row_id, rank in _places(ranking).items():
            scores[row_id] += share / (fusion.k + rank)
    return scores


def _by_scores(
    hits: Mapping[str, Hit], dense: Sequence[Hit], sparse: Sequence[Hit], fusion: Weighted, *, sparse_ended: bool
) -> dict[str, float]:
    cosines, words = ({hit.row_id: hit.score for hit in ranking} for ranking in (dense, sparse))
    lowest_cosine = min(cosines.values(), default=0.0)
    lowest_words = 0.0 if sparse_ended else min(words.values(), default=0.0)
    # Chunks without a word of the query count too: the only hit of a rare name stands out the most.
    mean = sum(hit.score for hit in sparse[:_AVERAGED]) / max(1, min(_AVERAGED, len(hits)))
    scores = {}
    for row_id in hits:
        by_words = _MEAN_IS_WORTH * (words.get(row_id, lowest_words) / mean) if mean > 0 else 0.0
        by_meaning = cosines.get(row_id, lowest_cosine)
        scores[row_id] = fusion.dense_weight * by_meaning + (1 - fusion.dense_weight) * by_words
    return scores
