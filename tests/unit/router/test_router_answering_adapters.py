"""Which adapter writes an answer, and what happens without it."""

import pytest

from services.router.domain import Domain, Outcome
from tandem import errors
from tests.fakes.router import World, Written, question
from tests.fakes.router_worlds import world_with


async def test_rag_reads_with_the_base_model_where_no_reading_adapter_is_loaded():
    world = World()
    world.generator.loaded = frozenset({"answers"})
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == ""


async def test_rag_reads_with_the_base_model_when_the_adapter_has_just_gone():
    world = World()
    del world.generator.sequences["reading"]
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == ""
    assert [adapter for adapter, _ in world.generator.prompts] == ["reading", ""]


async def test_without_an_answer_adapter_finetuned_is_refused_and_recorded():
    world = World()
    world.generator.loaded = frozenset()
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.ask(question(policy="finetuned"))
    assert caught.value.metadata == {"adapter": "answers"}
    (closing,) = world.audit.closed
    assert (closing.outcome, closing.error_code) == (Outcome.FAILED, "FAILED_PRECONDITION")


async def test_an_adapter_that_has_just_gone_counts_as_missing():
    world = World()
    del world.generator.sequences["answers"]
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


async def test_the_base_model_is_never_labelled_fine_tuned():
    world = world_with(answers=Written(lineage_adapter=""))
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


async def test_the_list_of_adapters_is_kept_for_a_while_for_each_tenant():
    world = World()
    engine = world.engine()
    await engine.answer(question(), world.emit)
    await engine.answer(question(), world.emit)
    assert world.generator.num_listings == 1


async def test_an_alias_of_a_listed_adapter_answers():
    world = World(domain=Domain(answer_adapter="answers@candidate"))
    world.generator.sequences["answers@candidate"] = world.generator.sequences.pop("answers")
    answer = await world.ask(question(policy="finetuned"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == "answers@candidate"


async def test_an_alias_that_stands_for_nothing_counts_as_missing():
    with pytest.raises(errors.FailedPrecondition) as caught:
        await World(domain=Domain(answer_adapter="answers@candidate")).ask(question(policy="finetuned"))
    assert caught.value.metadata == {"adapter": "answers@candidate"}
