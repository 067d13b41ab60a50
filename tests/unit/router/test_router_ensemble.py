"""ensemble over scripted paths: when both write, and which path is left when one cannot."""

from dataclasses import replace

import pytest

from services.router.domain import Below, Draft, NoAdapter, PartDown, Route
from services.router.policies.ensemble import Ensemble
from tests.fakes.router import DOMAIN
from tests.fakes.router_paths import FakePaths, reading, silent, weights

GENERATOR = PartDown("generator", "is not available")


async def test_both_write_by_the_questions_weight():
    paths = FakePaths(own_weight=0.3)
    draft = await Ensemble().decide(paths)
    assert draft.route is Route.ENSEMBLE
    assert paths.calls == ["embed", "search", "blend"]
    assert paths.kinds() == ["choose:ensemble", "choose:ensemble", "accept:ensemble"]
    assert "weight 0.30" in paths.steps[1].reason


@pytest.mark.parametrize(("weight", "call"), [(0.98, "finetuned"), (0.02, "read"), (0.97, "blend"), (0.03, "blend")])
async def test_a_prompt_that_would_change_nothing_is_left_out(weight: float, call: str):
    paths = FakePaths(own_weight=weight)
    await Ensemble().decide(paths)
    assert paths.calls[-1] == call


@pytest.mark.parametrize("adapter", [weights(0.1), silent(weights())])
async def test_where_the_adapter_alone_is_not_sure_the_passages_that_were_found_are_read(adapter: Draft):
    paths = FakePaths(own_weight=0.99, adapter=adapter)
    assert (await Ensemble().decide(paths)).text == "read"
    assert paths.calls == ["embed", "search", "finetuned", "read"]
    assert paths.kinds()[2:] == ["escalate:rag", "accept:rag"]
    none_supports = FakePaths(own_weight=0.99, adapter=adapter, reading=reading(0.1))
    assert (await Ensemble().decide(none_supports)).abstained


async def test_without_passages_the_adapter_answers_if_it_is_sure():
    assert (await Ensemble().decide(FakePaths(passages=()))).text == "weights"
    paths = FakePaths(passages=(), adapter=weights(0.1))
    assert (await Ensemble().decide(paths)).abstained
    assert paths.kinds()[-1] == "abstain:finetuned"


async def test_without_an_adapter_passages_are_read():
    paths = FakePaths(blended=NoAdapter("answers"))
    assert (await Ensemble().decide(paths)).text == "read"
    assert paths.kinds() == ["choose:ensemble", "choose:ensemble", "escalate:rag", "accept:rag"]


async def test_without_a_generator_the_best_passage_is_quoted():
    paths = FakePaths(blended=GENERATOR)
    assert (await Ensemble().decide(paths)).lineage is None
    assert paths.degraded == ["generator"]


async def test_without_a_retriever_the_adapter_answers_alone():
    down = PartDown("retriever", "is not available")
    paths = FakePaths(passages=down, adapter=weights(0.1))
    assert (await Ensemble().decide(paths)).text == "weights"
    assert paths.degraded == ["retriever"]
    assert paths.kinds() == ["choose:ensemble", "fall_back:finetuned", "accept:finetuned"]
    with pytest.raises(PartDown, match="retriever"):
        await Ensemble().decide(FakePaths(passages=down, adapter=NoAdapter("answers")))


async def test_a_blend_that_says_nothing_abstains():
    paths = FakePaths(blended=silent(reading(route=Route.ENSEMBLE)))
    assert (await Ensemble().decide(paths)).abstained
    assert paths.kinds()[-1] == "abstain:ensemble"


async def test_a_blend_that_passages_support_too_little_is_read_instead_where_the_domain_escalates():
    poor = reading(0.2, route=Route.ENSEMBLE)
    assert (await Ensemble().decide(FakePaths(blended=poor))).abstained
    escalating = replace(DOMAIN, below=Below.ESCALATE)
    assert (await Ensemble().decide(FakePaths(blended=poor, domain=escalating))).text == "read"
    assert (await Ensemble().decide(FakePaths(blended=poor, reading=reading(0.2), domain=escalating))).abstained


@pytest.mark.parametrize(
    ("max_calls", "calls"),
    [
        (4, ["embed", "search", "blend"]),
        (3, ["search by words", "blend"]),
        (2, ["search by words", "read"]),
        (1, ["search by words", "quote"]),
    ],
)
async def test_ensemble_takes_what_the_budget_has_room_for(max_calls: int, calls: list[str]):
    paths = FakePaths(max_calls=max_calls)
    await Ensemble().decide(paths)
    assert paths.calls == calls
    assert set(paths.degraded) == ({"budget"} if max_calls < 4 else set())
