"""The audit record of an answer: opened before anything is said, closed however it ends."""

import asyncio

import pytest

from services.router.domain import Closing, Delta, Outcome
from tandem import errors
from tests.fakes.router import NEVER, FakeAudit, FakeRetriever, Script, World, Written, question
from tests.fakes.router_worlds import world_with


async def test_the_opened_record_is_there_before_anything_is_said():
    world = World()
    seen: list[int] = []

    async def emit(event: object) -> None:
        seen.append(len(world.audit.opened))
        assert world.audit.closed == []

    await world.engine().answer(question(), emit)
    assert set(seen) == {1}
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.ANSWERED]


async def test_the_deadline_ends_an_answer_and_its_record():
    world = world_with(answers=Written(delay_s=NEVER))
    with pytest.raises(errors.DeadlineExceeded):
        await world.ask(question(policy="finetuned", timeout_s=0.1))
    assert world.generator.num_running == 0
    assert world.audit.closed[0].error_code == "DEADLINE_EXCEEDED"


async def test_without_an_opened_record_nothing_is_said():
    world = World(audit=FakeAudit(opening=Script(error=errors.Unavailable("disk full"))))
    with pytest.raises(errors.Unavailable):
        await world.ask(question())
    assert world.events == []
    assert world.generator.prompts == []
    assert world.audit.closed == []


async def test_without_a_closed_record_the_answer_is_not_given():
    world = World(audit=FakeAudit(closing=Script(error=errors.Unavailable("disk full"))))
    with pytest.raises(errors.Unavailable):
        await world.ask(question())


async def test_a_failure_is_not_hidden_by_a_record_that_cannot_be_closed():
    world = World(audit=FakeAudit(closing=Script(error=errors.Unavailable("disk full"))))
    world.generator.loaded = frozenset()
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


def drafts(closing: Closing) -> list[tuple[str, str, bool]]:
    """Returns what the record says of those who wrote: the route, the adapter, and whether it came to its end."""
    assert all(draft.lineage.signer_key_id for draft in closing.drafts if draft.lineage.adapter)
    return [(draft.route.value, draft.lineage.adapter, draft.finished) for draft in closing.drafts]


async def test_a_draft_that_was_discarded_is_recorded_with_its_weights():
    world = world_with(answers=Written(mean_logprob=-3.0))
    answer = await world.ask(question(policy="cascade"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == "reading"
    assert drafts(world.audit.closed[0]) == [("finetuned", "answers", True), ("rag", "reading", True)]


async def test_a_draft_that_broke_off_is_recorded_with_its_weights():
    world = world_with(answers=Written(late_error=errors.Unavailable("gone")))
    with pytest.raises(errors.Unavailable):
        await world.ask(question(policy="finetuned"))
    assert drafts(world.audit.closed[0]) == [("finetuned", "answers", False)]


async def test_a_caller_who_leaves_in_the_middle_is_recorded_with_the_weights_that_wrote():
    world = world_with(answers=Written(text="word " * 1_000_000))
    writes = asyncio.Event()

    async def emit(event: object) -> None:
        if isinstance(event, Delta):
            writes.set()

    asking = asyncio.create_task(world.engine().answer(question(policy="finetuned"), emit))
    await writes.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert drafts(world.audit.closed[0]) == [("finetuned", "answers", False)]


async def test_a_bug_in_a_part_is_recorded_as_failed():
    world = World(retriever=FakeRetriever(error=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await world.ask(question(policy="rag"))
    assert world.audit.closed[0].error_code == "INTERNAL"


async def test_a_caller_who_leaves_takes_the_sequence_along_and_is_recorded():
    world = world_with(answers=Written(delay_s=NEVER))
    asking = asyncio.create_task(world.ask(question()))
    await world.generator.running.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.generator.num_running == 0
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.CANCELLED]


async def test_a_caller_who_leaves_while_the_record_opens_is_recorded_too():
    world = World(audit=FakeAudit(opening=Script(delay_s=0.02)))
    engine = world.engine()
    asking = asyncio.create_task(engine.answer(question(), world.emit))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await engine.stop()
    assert len(world.audit.opened) == 1
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.CANCELLED]
