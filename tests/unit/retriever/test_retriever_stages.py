"""The stages of a search that compute alone: fusion, duplicates, diversity, neighbours."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.domain import Chunk, DocumentKey, Fusion, Hit, Near, ReciprocalRank, Weighted
from services.retriever.engine.diversity import diversify
from services.retriever.engine.duplicates import without_duplicates
from services.retriever.engine.fusion import Candidate, fuse, scaled
from services.retriever.engine.neighbours import ranges

LETTERS = "abcdefgh"
rankings = st.lists(st.sampled_from(LETTERS), unique=True)
weights = st.floats(0, 1)


def hit(row_id: str, *, score: float = 0.0, text: str = "x", document: str = "d", ordinal: int = 0) -> Hit:
    chunk = Chunk(10 * ordinal, 10 * ordinal + 9)
    return Hit(row_id, DocumentKey("t", document), "v", chunk, text, ordinal=ordinal, score=score)


def ranked(rows: list[str], *, low: float = 0.0) -> list[Hit]:
    return [hit(row, score=low + len(rows) - at) for at, row in enumerate(rows)]


@given(rankings, rankings, st.integers(1, 1000), weights)
def test_reciprocal_rank_sums_places_by_weight(dense: list[str], sparse: list[str], k: int, weight: float) -> None:
    fused = fuse(ranked(dense), ranked(sparse, low=5), ReciprocalRank(k, weight))
    assert {item.hit.row_id for item in fused} == {*dense, *sparse}
    assert [item.score for item in fused] == sorted((item.score for item in fused), reverse=True)
    for item in fused:
        row = item.hit.row_id
        assert item.dense_rank == (dense.index(row) + 1 if row in dense else None)
        assert item.sparse_rank == (sparse.index(row) + 1 if row in sparse else None)
        assert item.dense_score == (len(dense) - dense.index(row) if row in dense else None)
        assert item.sparse_score == (5 + len(sparse) - sparse.index(row) if row in sparse else None)
        terms = [
            share / (k + ranking.index(row) + 1)
            for share, ranking in ((2 * weight, dense), (2 * (1 - weight), sparse))
            if row in ranking
        ]
        assert item.score == pytest.approx(sum(terms))


def test_half_each_is_the_sum_of_the_paper() -> None:
    fused = fuse(ranked(["a", "b"]), ranked(["b"]), ReciprocalRank())
    assert [(item.hit.row_id, item.score) for item in fused] == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
    ]


def of(scores: dict[str, float]) -> list[Hit]:
    return [hit(row, score=score) for row, score in sorted(scores.items(), key=lambda item: -item[1])]


def order(candidates: list[Candidate]) -> list[str]:
    return [item.hit.row_id for item in candidates]


cosines = st.dictionaries(st.sampled_from(LETTERS), st.floats(-1, 1))
points = st.dictionaries(st.sampled_from(LETTERS), st.floats(0, 50))


@given(cosines, points, weights, st.booleans())
def test_weighted_fusion_adds_the_cosine_and_tenths_of_the_mean_of_bm25(
    dense: dict[str, float], sparse: dict[str, float], weight: float, ended: bool
) -> None:
    fused = fuse(of(dense), of(sparse), Weighted(weight), sparse_ended=ended)
    assert {item.hit.row_id for item in fused} == {*dense, *sparse}
    assert fused == fuse(of(dense), of(sparse), Weighted(weight), sparse_ended=ended)
    mean = sum(sparse.values()) / max(1, len(fused))
    last_dense = min(dense.values(), default=0.0)
    last_sparse = 0.0 if ended else min(sparse.values(), default=0.0)
    for item in fused:
        row = item.hit.row_id
        words = 0.1 * (sparse.get(row, last_sparse) / mean) if mean else 0.0
        assert item.score == pytest.approx(weight * dense.get(row, last_dense) + (1 - weight) * words)
        assert (item.dense_score, item.sparse_score) == (dense.get(row), sparse.get(row))


@given(rankings, rankings, st.sampled_from([ReciprocalRank(), Weighted()]), weights)
def test_a_ranking_alone_keeps_its_order(dense: list[str], sparse: list[str], fusion: Fusion, weight: float) -> None:
    fusion = replace(fusion, dense_weight=weight)
    assert order(fuse(ranked(dense), [], fusion, sparse_ended=True)) == dense
    assert order(fuse([], ranked(sparse), fusion)) == sparse
    whole = replace(fusion, dense_weight=1.0)
    assert order(fuse(ranked(dense), ranked(sparse), whole))[: len(dense)] == dense
    assert order(fuse(ranked(dense), ranked(sparse), replace(fusion, dense_weight=0.0)))[: len(sparse)] == sparse


def test_what_one_ranking_alone_knows_is_not_sunk_by_what_is_in_both() -> None:
    dense = of({"answer": 0.9, "b": 0.5, "c": 0.45})
    sparse = of({"b": 9.0, "c": 8.5, "d": 8.0})
    assert order(fuse(dense, sparse, Weighted()))[0] == "answer"
    assert order(fuse(dense, sparse, ReciprocalRank()))[0] == "b"


def test_words_count_for_more_where_few_chunks_stand_out_by_them() -> None:
    dense = of({f"{n}": 0.6 - n / 100 for n in range(40)})
    level = of({f"{n}": 10 + n / 100 for n in range(40)})
    peaked = of({f"{n}": 4.0 for n in range(39)} | {"39": 30.0})
    assert order(fuse(dense, level, Weighted()))[0] == "0"
    assert order(fuse(dense, peaked, Weighted()))[0] == "39"
    rare = of({"39": 3.0})  # nothing else has the name that was asked for
    assert order(fuse(dense, rare, Weighted(), sparse_ended=True))[0] == "39"


def test_how_deep_a_ranking_is_does_not_change_what_is_on_top() -> None:
    dense = {f"{n}": 0.8 - n / 500 for n in range(200)}
    sparse = {f"{199 - n}": 30 / (1 + n / 20) for n in range(200)}
    deep = order(fuse(of(dense), of(sparse), Weighted()))
    assert order(fuse(of(dense)[:100], of(sparse)[:100], Weighted()))[:10] == deep[:10]


def test_ties_keep_the_order_of_the_rankings() -> None:
    for fusion in (ReciprocalRank(), Weighted()):
        for dense, sparse in (("a", "b"), ("ab", ""), ("", "ab")):
            fused = fuse([hit(row) for row in dense], [hit(row) for row in sparse], fusion)
            assert order(fused) == ["a", "b"]


@given(st.lists(st.floats(-1e6, 1e6)))
def test_scaled_scores_lie_between_0_and_1(scores: list[float]) -> None:
    result = scaled(scores)
    assert all(0 <= value <= 1 for value in result)
    assert scores == [] or max(result) == 1


def test_of_the_same_text_the_best_stays() -> None:
    texts = ["Glass breakage", "no excess", " glass\n BREAKAGE ", "glass breakages", "No  excess"]
    candidates = [Candidate(hit(str(at), text=text), score=-at) for at, text in enumerate(texts)]
    assert [item.hit.row_id for item in without_duplicates(candidates, most=9)] == ["0", "1", "3"]
    assert [item.hit.row_id for item in without_duplicates(candidates, most=2)] == ["0", "1"]


directions = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)


@given(st.dictionaries(st.sampled_from(LETTERS), st.tuples(st.floats(-5, 5), directions)), weights, st.integers(1, 9))
def test_diversity_never_raises_the_score_along_the_way(
    given: dict[str, tuple[float, list[float]]], diversity: float, top_k: int
) -> None:
    candidates = [Candidate(hit(row), score=score) for row, (score, _) in given.items()]
    candidates.sort(key=lambda item: -item.score)
    vectors = {row: vector for row, (_, vector) in given.items()}
    chosen = diversify(candidates, vectors, diversity=diversity, top_k=top_k)
    assert len(chosen) == min(top_k, len(candidates)) == len({item.hit.row_id for item in chosen})
    assert all(one.score >= other.score for one, other in pairwise(chosen))
    if chosen:
        assert chosen[0].hit.row_id == candidates[0].hit.row_id or diversity == 1


def test_diversity_prefers_what_says_something_else() -> None:
    candidates = [Candidate(hit(row), score=score) for row, score in (("a", 1.0), ("b", 0.9), ("c", 0.5), ("d", 0.0))]
    vectors = {"a": [1.0, 0.0], "b": [2.0, 0.1], "c": [0.0, 1.0], "d": [0.0, -1.0]}
    order = lambda diversity: [  # noqa: E731
        item.hit.row_id for item in diversify(candidates, vectors, diversity=diversity, top_k=3)
    ]
    assert order(0.0) == ["a", "b", "c"]
    assert order(0.5) == ["a", "c", "d"]
    assert order(1.0) == ["a", "c", "d"]
    del vectors["c"]
    assert order(0.5)[1] == "c", "what has no vector is like nothing"


def near(*ordinals: int) -> list[Near]:
    return [Near(ordinal, 10 * ordinal, 10 * ordinal + 9) for ordinal in ordinals]


def test_ranges_are_widened_and_those_that_meet_are_one() -> None:
    candidates = [
        Candidate(hit("a", document="one", ordinal=7), score=4),
        Candidate(hit("b", document="two", ordinal=7), score=3),
        Candidate(hit("c", document="one", ordinal=2), score=2),
        Candidate(hit("d", document="one", ordinal=5), score=1),  # joins a and c
    ]
    around = {"a": near(6, 7, 8), "b": near(6, 7), "c": near(1, 2, 3), "d": near(4, 5, 6)}
    found = ranges(candidates, around)
    assert [(item.found, item.first, item.last, item.start, item.end) for item in found] == [
        (0, 1, 8, 10, 89),
        (1, 6, 7, 60, 79),
    ]


def test_chunks_that_are_next_to_each_other_meet_and_others_do_not() -> None:
    candidates = [Candidate(hit(str(at), ordinal=at), score=-at) for at in (0, 3, 5)]
    assert [item.first for item in ranges(candidates, {"0": near(0, 1), "3": near(2, 3), "5": near(5)})] == [0, 5]


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 30)), unique=True, max_size=8), st.integers(0, 5))
def test_ranges_hold_each_chunk_once(places: list[tuple[str, int]], distance: int) -> None:
    candidates = [
        Candidate(hit(f"{document}{ordinal}", document=document, ordinal=ordinal), score=-at)
        for at, (document, ordinal) in enumerate(places)
    ]
    around = {
        f"{document}{ordinal}": near(*range(max(0, ordinal - distance), min(30, ordinal + distance) + 1))
        for document, ordinal in places
    }
    found = ranges(candidates, around)
    covered = [(item.key.document_id, ordinal) for item in found for ordinal in range(item.first, item.last + 1)]
    expected = {(document, item.ordinal) for document, ordinal in places for item in around[f"{document}{ordinal}"]}
    assert sorted(covered) == sorted(expected)
    assert [item.found for item in found] == sorted(item.found for item in found)
    assert all(not one.meets(other) for one in found for other in found if one is not other)


def test_a_chunk_that_is_gone_ends_the_range() -> None:
    candidates = [Candidate(hit("a", ordinal=5), score=1)]
    assert [(item.first, item.last) for item in ranges(candidates, {"a": near(3, 6)})] == [(5, 6)]
    assert [(item.first, item.last) for item in ranges(candidates, {})] == [(5, 5)]
