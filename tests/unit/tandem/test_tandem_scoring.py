"""EM and F1 as SQuAD counts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.scoring import exact_match, f1, normalise


@pytest.mark.parametrize(
    ("answer", "golds", "matched", "overlap"),
    [
        ("EUR 1,200.", ["EUR 1200"], 1.0, 1.0),
        ("The 30 days", ["30 days"], 1.0, 1.0),
        ("up to 30 days", ["30 days"], 0.0, 2 * 2 / 6),
        ("", ["30 days"], 0.0, 0.0),
        ("weeks", ["30 days", "two weeks"], 0.0, 2 / 3),
        ("anything", [], 0.0, 0.0),
    ],
)
def test_scores(answer: str, golds: list[str], matched: float, overlap: float) -> None:
    assert exact_match(answer, golds) == matched
    assert f1(answer, golds) == pytest.approx(overlap)


@given(st.text(), st.text())
def test_scores_are_shares_and_equal_texts_match(one: str, other: str) -> None:
    assert 0 <= f1(one, [other]) <= 1
    assert exact_match(one, [one]) == 1
    assert normalise(normalise(one)) == normalise(one)
