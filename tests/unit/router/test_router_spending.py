"""What an answer takes is counted, and nothing is begun that the allowance has no room for."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain import Allowance, Depth, PartDown, Prompt, Usage
from services.router.domain.advice import Costs
from services.router.domain.grounding import AbsentSignal, Groundedness, GroundingStatus, Signal
from services.router.engine.spending import Spending
from tandem.prompts import Message
from tests.fakes.router import PASSAGES

COSTS = Costs(per_1000_input_tokens=1.0, per_1000_output_tokens=2.0, per_search=0.1, per_embedding=0.01)
PROMPT = Prompt([Message("user", "word " * 600)], "answers", 1.0)


def test_calls_are_counted_a_prompt_each():
    spending = Spending(Allowance(max_calls=4), None)
    spending.embed()
    spending.search()
    spending.write((PROMPT, PROMPT), max_tokens=10)
    assert spending.cost().num_calls == 4
    assert spending.cost().amount is None
    assert not spending.room(calls=1)
    with pytest.raises(PartDown, match="budget: no room for 1 more call: 4 of 4 made"):
        spending.search()
    assert spending.num_calls == 4


def test_a_generation_is_estimated_at_full_length_and_settled_by_its_tokens():
    spending = Spending(Allowance(), COSTS)
    charge = spending.write((PROMPT,), max_tokens=100)
    assert spending.amount == pytest.approx(1.2)
    charge.amount = spending.price(Usage(500, 10))
    assert spending.cost().amount == pytest.approx(0.52)
    assert spending.cost().currency == "EUR"


def test_what_costs_too_much_is_not_begun():
    spending = Spending(Allowance(max_cost=1.2), COSTS)
    spending.search()
    with pytest.raises(PartDown, match=r"no room for 1\.2 EUR more: 0\.1 of 1\.2 spent"):
        spending.write((PROMPT,), max_tokens=100)
    spending.embed()
    assert spending.cost().amount == pytest.approx(0.11)


def test_support_is_judged_by_words_where_its_calls_have_no_room():
    spending = Spending(Allowance(max_calls=2), COSTS)
    assert spending.ground(Depth.LIKELIHOOD, calls=2, answer="a", passages=PASSAGES)[0] is Depth.LIKELIHOOD
    depth, charge = spending.ground(Depth.VECTORS, calls=1, answer="a", passages=PASSAGES)
    assert (depth, charge.num_calls) == (Depth.WORDS, 0)
    assert spending.num_calls == 2


@pytest.mark.parametrize(
    ("used", "absent", "calls", "priced"),
    [
        ((Signal.LEXICAL,), (), 0, False),
        ((Signal.LEXICAL, Signal.EMBEDDING), (), 1, True),
        ((Signal.LEXICAL, Signal.EMBEDDING), (AbsentSignal(Signal.LIKELIHOOD, "late"),), 2, True),
        ((Signal.ENTAILMENT,), (), 1, True),
    ],
)
def test_support_takes_the_calls_that_were_made(
    used: tuple[Signal, ...], absent: tuple[AbsentSignal, ...], calls: int, priced: bool
):
    spending = Spending(Allowance(), COSTS)
    _, charge = spending.ground(Depth.ENTAILMENT, calls=3, answer="a", passages=PASSAGES)
    assert spending.num_calls == 3
    found = Groundedness(status=GroundingStatus.MEASURED, rests_on=used, absent=absent)
    spending.grounded(charge, found, answer="a", passages=PASSAGES)
    assert spending.num_calls == calls
    assert (spending.amount > 0) is priced


@given(
    max_calls=st.integers(0, 6) | st.none(),
    max_cost=st.floats(0, 3) | st.none(),
    calls=st.lists(st.sampled_from(["embed", "search", "write"]), max_size=12),
)
def test_no_sequence_of_calls_exceeds_the_allowance(max_calls: int | None, max_cost: float | None, calls: list[str]):
    spending = Spending(Allowance(max_calls=max_calls, max_cost=max_cost), COSTS)
    for call in calls:
        with suppress(PartDown):
            if call == "write":
                spending.write((PROMPT,), max_tokens=50)
            else:
                getattr(spending, call)()
    assert max_calls is None or spending.num_calls <= max_calls
    assert max_cost is None or spending.amount <= max_cost + 1e-9
