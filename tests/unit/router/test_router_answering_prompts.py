"""Prompts that the generator refuses, for their length or for anything else."""

import pytest

from services.router.domain import Sources
from tandem import errors
from tests.fakes.router import FakeRetriever, World, Written, passage, question


async def test_a_prompt_that_is_too_long_is_read_with_fewer_passages():
    many = tuple(passage(f"Clause {n}: the excess for collision is EUR 500. " * 20, number=n) for n in range(8))
    long = errors.InvalidInput("the prompt has 9000 tokens", reason="PROMPT_TOO_LONG")
    world = World(retriever=FakeRetriever(passages=many))
    world.generator.sequences["reading"] = Written(max_characters=2500, too_long=long)
    answer = await world.ask(question(policy="rag", max_passages=8))
    assert 1 <= len(answer.draft.passages) < 8
    sources = [event for event in world.events if isinstance(event, Sources)]
    assert [event.passages for event in sources] == [answer.draft.passages]
    assert "did not fit" in answer.steps[-1].reason


async def test_a_question_that_no_prompt_can_hold_is_the_callers_fault():
    long = errors.InvalidInput("the prompt has 9000 tokens", reason="PROMPT_TOO_LONG")
    for policy in ("rag", "cascade", "finetuned"):
        world = World()
        for name in ("answers", "reading"):
            world.generator.sequences[name] = Written(max_characters=10, too_long=long)
        with pytest.raises(errors.InvalidInput) as caught:
            await world.ask(question(policy=policy))
        assert [violation.field for violation in caught.value.violations] == ["question"]


async def test_a_prompt_refused_for_anything_but_its_length_is_no_fault_of_the_caller_and_not_tried_again():
    many = tuple(passage(f"Clause {n}: the excess for collision is EUR 500.", number=n) for n in range(4))
    refused = errors.InvalidInput("roles are wrong", [errors.FieldViolation("chat.messages[0].role", "is wrong")])
    world = World(retriever=FakeRetriever(passages=many))
    world.generator.sequences["reading"] = Written(max_characters=10, too_long=refused)
    answer = await world.ask(question(policy="rag", max_passages=4))
    assert len(world.generator.prompts) == 1
    assert [(note.component, "quotation" in note.effect) for note in answer.degraded] == [("generator", True)]
    world = World()
    world.generator.sequences["answers"] = Written(max_characters=10, too_long=refused)
    with pytest.raises(errors.Unavailable, match="refused the prompt"):
        await world.ask(question(policy="finetuned"))
