"""What the comparison of embedders reports, and when it says that a goal is met."""

from array import array

import pytest

from benchmarks.embedder import Cell, Plan, goals, page
from benchmarks.embedder_arms import DEFAULT, REFERENCE, SERVER
from benchmarks.embedder_texts import Texts, cosines, draw, ndcg_at_10, read


def vector(*values: float) -> "array[float]":
    return array("f", values)


def cell(rate: float, single: float, at_once: float = 10, ndcg: float | None = None) -> Cell:
    return Cell("1", [rate], [single], [at_once], (0.99, 0.98), ndcg)


def test_ndcg_is_one_for_the_best_order_and_discounts_later_places() -> None:
    texts = Texts(["a", "b"], ["q"], ["a", "b"], ["q"], {"q": {"b": 1}})
    passages = [vector(1, 0), vector(0, 1)]
    assert ndcg_at_10(texts, passages, [vector(0, 1)]) == pytest.approx(1)
    assert ndcg_at_10(texts, passages, [vector(1, 0)]) == pytest.approx(0.6309, abs=1e-4)


def test_cosines_are_of_the_same_texts() -> None:
    mean, least = cosines([vector(1, 0), vector(0, 2)], [vector(1, 0), vector(1, 1)])
    assert (mean, least) == (pytest.approx((1 + 0.5**0.5) / 2), pytest.approx(0.5**0.5))


def test_without_a_set_there_are_texts_of_our_own() -> None:
    texts = read(None)
    assert len(draw(texts.passages, 32, seed=1)) == 32
    assert len(draw(texts.queries, 100, seed=1)) == 100
    assert not texts.relevant


def test_goals_are_judged_by_the_reference_of_the_same_run() -> None:
    cells = {
        REFERENCE: cell(10, 10),
        SERVER: cell(9, 11, 100),
        "tandem-fp32": cell(17, 4, ndcg=0.650),
        DEFAULT: cell(36, 4, 40, ndcg=0.649),
        "tandem-openvino-int8": cell(51, 2, ndcg=0.646),
        "tandem-too-coarse": cell(90, 1, ndcg=0.640),
    }
    found = goals(cells)
    assert [met for _, _, met in found] == [True, True, True, True, True]
    assert "tandem-openvino-int8" in found[2][0]
    cells[DEFAULT] = cell(34, 6, 51)
    assert [met for _, _, met in goals(cells)] == [False, False, True, True, False]


def test_the_page_names_what_is_absent() -> None:
    plan = Plan(rounds=1, passages=2, queries=3, threads=2, seed=1)
    written = page({REFERENCE: cell(10, 10)}, {"openvino-int8": "no wheel"}, plan, "texts")
    assert f"| {REFERENCE} | 10.0 (10.0 to 10.0) [1.0] |" in written
    assert "- openvino-int8 is absent: no wheel" in written
