"""nDCG and recall are those of trec_eval."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.retrieval.metrics import ndcg, recall

# Grades along the ranking ("." not judged, "-" for -1), grades of relevant documents that it missed; then what
# pytrec_eval 0.5.11 says: ndcg_cut_10, recall_10, recall_100.
BY_TREC_EVAL = [
    (".1", "1100", 0.29608191, 0.33333333, 0.33333333),
    ("..2.1", "3", 0.29124186, 0.66666667, 0.66666667),
    ("11113.1.1", "02", 0.66164447, 0.875, 0.875),
    ("2111.0..131.", "2", 0.66764082, 0.75, 0.875),
    ("..12.3.3.2.1..", "3223", 0.35759392, 0.5, 0.6),
    ("..3.2--123.0.-202.22", "21", 0.38914866, 0.45454545, 0.81818182),
    (".0-.0.10101.1.....0..1-.31..13", "3300", 0.06562308, 0.18181818, 0.81818182),
    (
        ".....00..00.1.....01......0..1.1...00...1.00.0..10.00.010.0....0....11..00.101.0..000...1...0...00..0....."
        "0.01...0100.11.0.000....",
        "2302",
        0.0,
        0.0,
        0.63157895,
    ),
]


def judged(grades: str, missed: str) -> tuple[list[str], dict[str, int]]:
    def number(mark: str) -> int:
        return -1 if mark == "-" else int(mark)

    found = {f"d{n}": number(mark) for n, mark in enumerate(grades) if mark != "."}
    return [f"d{n}" for n in range(len(grades))], found | {f"m{n}": number(mark) for n, mark in enumerate(missed)}


@pytest.mark.parametrize(("grades", "missed", "gain", "at_10", "at_100"), BY_TREC_EVAL)
def test_figures_are_those_of_trec_eval(grades: str, missed: str, gain: float, at_10: float, at_100: float) -> None:
    ranking, judgements = judged(grades, missed)
    assert ndcg(ranking, judgements, depth=10) == pytest.approx(gain, abs=1e-8)
    assert recall(ranking, judgements, depth=10) == pytest.approx(at_10, abs=1e-8)
    assert recall(ranking, judgements, depth=100) == pytest.approx(at_100, abs=1e-8)


def test_a_ranking_by_hand() -> None:
    judgements = {"a": 2, "b": 1, "c": 0}
    assert ndcg(["c", "a"], judgements, depth=10) == pytest.approx((2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert recall(["c", "a"], judgements, depth=10) == 0.5
    assert ndcg([], judgements, depth=10) == recall([], judgements, depth=10) == 0
    assert ndcg(["c"], {"c": 0}, depth=10) == recall(["c"], {}, depth=10) == 0


def test_a_document_that_occurs_twice_is_refused() -> None:
    for score in (ndcg, recall):
        with pytest.raises(ValueError, match="twice"):
            score(["a", "b", "a"], {"a": 1}, depth=10)


NAMES = [f"d{n}" for n in range(30)]
RANKINGS = st.lists(st.sampled_from(NAMES), unique=True)
JUDGEMENTS = st.dictionaries(st.sampled_from(NAMES), st.integers(-1, 4))


@given(RANKINGS, JUDGEMENTS, st.integers(1, 40))
def test_scores_lie_between_0_and_1_and_the_best_order_has_1(
    ranking: list[str], judgements: dict[str, int], depth: int
) -> None:
    gain, share = ndcg(ranking, judgements, depth=depth), recall(ranking, judgements, depth=depth)
    assert 0 <= gain <= 1 + 1e-12
    assert 0 <= share <= 1
    best = sorted(judgements, key=lambda name: -judgements[name])
    relevant = any(grade > 0 for grade in judgements.values())
    assert ndcg(best, judgements, depth=depth) == (pytest.approx(1) if relevant else 0)
    assert recall(best, judgements, depth=40) == float(relevant)


@given(RANKINGS, JUDGEMENTS, st.integers(1, 40), st.data())
def test_a_relevant_document_further_up_never_harms(
    ranking: list[str], judgements: dict[str, int], depth: int, data: st.DataObject
) -> None:
    if len(ranking) < 2:
        return
    place = data.draw(st.integers(0, len(ranking) - 2))
    above, below = (max(0, judgements.get(ranking[place + n], 0)) for n in (0, 1))
    swapped = [*ranking[:place], ranking[place + 1], ranking[place], *ranking[place + 2 :]]
    change = ndcg(swapped, judgements, depth=depth) - ndcg(ranking, judgements, depth=depth)
    assert (change >= -1e-12) if below >= above else (change <= 1e-12)
    if (below > 0) >= (above > 0):
        assert recall(swapped, judgements, depth=depth) >= recall(ranking, judgements, depth=depth)


@given(RANKINGS, JUDGEMENTS, st.integers(1, 40))
def test_what_is_not_relevant_does_not_count(ranking: list[str], judgements: dict[str, int], depth: int) -> None:
    without = {name: grade for name, grade in judgements.items() if grade > 0}
    assert ndcg(ranking, judgements, depth=depth) == ndcg(ranking, without, depth=depth)
    assert recall(ranking, judgements, depth=depth) == recall(ranking, without, depth=depth)
