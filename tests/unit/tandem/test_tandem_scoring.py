"""EM and F1 as SQuAD counts them, abstention, classes, and intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.scoring import (
    abstains,
    accuracy,
    bootstrap,
    exact_match,
    f1,
    macro_f1,
    mean,
    mean_interval,
    normalise,
    paired_interval,
)


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


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ("The passages do not answer this.", True),
        ("the passages do not answer this, sorry", True),
        ("  ", True),
        ("30 days", False),
        ("I think the passages do not answer this.", False),
    ],
)
def test_an_abstention_is_recognised_as_serving_does(answer: str, is_one: bool) -> None:
    assert abstains(answer) is is_one


def test_macro_f1_weighs_classes_alike() -> None:
    pairs = [("a", "a")] * 8 + [("a", "b"), ("b", "b")]
    assert accuracy(pairs) == pytest.approx(0.9)
    assert macro_f1(pairs) == pytest.approx((16 / 17 + 2 / 3) / 2)
    assert macro_f1([("what?", "a")]) == 0
    assert macro_f1([]) == accuracy([]) == 0


def test_the_interval_of_a_mean_covers_it_and_shrinks_with_more_rows() -> None:
    few = mean_interval([0.0, 1.0] * 10)
    many = mean_interval([0.0, 1.0] * 200)
    assert few.low < 0.5 < few.high
    assert many.high - many.low < few.high - few.low
    # The normal approximation of a share at n=400: 1.96 * sqrt(0.25 / 400) = 0.049.
    assert many.high - 0.5 == pytest.approx(0.049, abs=0.008)


def test_both_ways_to_the_interval_of_a_mean_agree() -> None:
    values, groups = [0.0, 1.0, 1.0, 0.5, 0.25, 0.0], ["a", "a", "b", "b", "c", "d"]
    assert bootstrap(values, mean, groups=groups, seed=3) == mean_interval(values, groups=groups, seed=3)


def test_rows_of_one_group_are_not_taken_for_independent() -> None:
    values = [0.0] * 50 + [1.0] * 50
    groups = [number // 10 for number in range(100)]
    apart, together = mean_interval(values), mean_interval(values, groups=groups)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_constant_gain_is_certain_however_much_the_questions_differ() -> None:
    values = [0.1 * (number % 7) for number in range(50)]
    gain = paired_interval([value + 0.2 for value in values], values)
    assert (gain.low, gain.high) == (pytest.approx(0.2), pytest.approx(0.2))
    with pytest.raises(ValueError, match="longer"):
        paired_interval([1.0], [1.0, 0.0])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0]])
def test_one_group_proves_nothing(values: list[float]) -> None:
    found = mean_interval(values, groups=["only"] * len(values))
    assert (found.low, found.high) == (-1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 3))
def test_an_interval_is_ordered_reproducible_and_within_the_values(values: list[float], seed: int) -> None:
    found = mean_interval(values, num_resamples=50, seed=seed)
    assert found == mean_interval(values, num_resamples=50, seed=seed)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
