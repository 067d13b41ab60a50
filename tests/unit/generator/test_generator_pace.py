"""How much of a prompt is read while others wait for their next token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.pace import Pace

BASE_S, TOKEN_S = 0.03, 0.002


def pace(*, stretch: float = 1.6) -> Pace:
    return Pace(max_tokens=512, min_tokens=16, max_stretch=stretch)


def seconds(rows: int, tokens: int) -> float:
    return BASE_S + 0.001 * rows + TOKEN_S * tokens


def run(model: Pace, steps: int, *, rows: int = 8, scale: float = 1.0) -> list[int]:
    budgets = []
    for _ in range(steps):
        budgets.append(model.budget(rows))
        model.observe(rows=rows, tokens=budgets[-1], seconds=scale * seconds(rows, budgets[-1]))
    return budgets


def learned(*, stretch: float = 1.6) -> Pace:
    model = pace(stretch=stretch)
    for _ in range(5):
        model.observe(rows=0, tokens=512, seconds=seconds(0, 512))
    run(model, 40)
    return model


def test_with_no_one_waiting_a_step_reads_as_much_as_it_may() -> None:
    assert pace().budget(0) == learned().budget(0) == 512


def test_the_first_steps_beside_others_measure_what_they_take_alone() -> None:
    model = pace()
    assert run(model, 5) == [0, 0, 0, 16, 16]


@pytest.mark.parametrize("stretch", [1.3, 1.6, 3.0])
def test_a_step_is_stretched_by_what_is_allowed(stretch: float) -> None:
    budget = learned(stretch=stretch).budget(8)
    if budget > 16:
        assert seconds(8, budget) / seconds(8, 0) == pytest.approx(stretch, rel=0.1)


def test_a_block_is_always_read_so_that_prompts_never_starve() -> None:
    assert learned(stretch=1.0).budget(8) == 16


def test_a_stalled_step_changes_nothing() -> None:
    model = learned()
    before = model.budget(8)
    model.observe(rows=8, tokens=before, seconds=5.0)
    model.observe(rows=8, tokens=0, seconds=5.0)
    model.observe(rows=0, tokens=512, seconds=60.0)
    assert model.budget(8) == pytest.approx(before, rel=0.1)


def test_a_stall_at_the_very_beginning_is_not_believed() -> None:
    model = pace()
    model.observe(rows=0, tokens=512, seconds=seconds(0, 512))
    model.observe(rows=8, tokens=0, seconds=5.0)
    run(model, 2)
    assert model.budget(8) == 16


def test_a_machine_that_slows_down_as_a_whole_keeps_its_budget() -> None:
    model = learned(stretch=3.0)
    before = model.budget(8)
    run(model, 2000, scale=3.0)
    after = next(budget for budget in (model.budget(8),) if budget)
    assert after == pytest.approx(before, rel=0.15)


def test_now_and_then_a_step_without_prompts_is_measured() -> None:
    budgets = run(learned(), 1000)
    assert 10 <= budgets.count(0) <= 20


def test_tokens_that_cost_nothing_are_not_limited() -> None:
    model = pace()
    for _ in range(10):
        model.observe(rows=8, tokens=0, seconds=0.03)
        model.observe(rows=8, tokens=64, seconds=0.03)
    assert model.budget(8) == 512


def test_where_tokens_cost_nothing_but_their_presence_does_a_block_is_read() -> None:
    model = pace()
    for _ in range(10):
        model.observe(rows=8, tokens=0, seconds=0.03)
        model.observe(rows=8, tokens=64, seconds=0.03)
    for _ in range(20):
        model.observe(rows=8, tokens=8, seconds=1.0)
    assert model.budget(8) == 16


# Equal durations, as coarse clocks and quick models give them, are what makes a cost 0.
_durations = st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0, 100, allow_nan=False)


@given(
    st.lists(
        st.tuples(st.integers(0, 64), st.integers(0, 512), _durations).filter(lambda step: step[0] + step[1] > 0),
        max_size=100,
    ),
    st.integers(0, 64),
)
def test_whatever_was_measured_the_budget_is_within_bounds(steps: list[tuple[int, int, float]], rows: int) -> None:
    model = pace()
    for number, tokens, duration in steps:
        model.observe(rows=number, tokens=tokens, seconds=duration)
    budget = model.budget(rows)
    assert budget == 0 or 16 <= budget <= 512
    if rows and not budget:
        for _ in range(3):
            model.observe(rows=rows, tokens=0, seconds=0.1)
        assert model.budget(rows) >= 16


def test_many_short_prompts_outweigh_few_running_rows_and_a_long_one_does_not() -> None:
    model = learned()
    run(model, 40, rows=1)
    calm = model.budget(8, waiting=[512])
    assert calm == model.budget(8)
    assert calm < model.budget(8, waiting=[256]) < model.budget(8, waiting=[256, 256])
    assert model.budget(8, waiting=[4000] * 8) == calm
    assert model.budget(1, waiting=[256]) == 512
