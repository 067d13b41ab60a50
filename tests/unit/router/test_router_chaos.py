"""Whatever fails, whoever leaves: one end for each answer, one opened and one closed record, nothing left running."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.domain import ABSTAINED_TEXT, Answer, DecisionStep, Delta, Outcome, Route, Started, StepKind
from tandem import errors
from tandem.prompts import ABSTENTION
from tests.fakes.router import NEVER, FakeAudit, FakeEmbedder, FakeRetriever, Script, World, Written, history, question

FAULTS = st.sampled_from(
    [
        None,
        None,
        errors.Unavailable("down"),
        errors.Overloaded("full", retry_after_s=1.0),
        errors.Internal("bug"),
        errors.InvalidInput("too long", reason="PROMPT_TOO_LONG"),
        errors.InvalidInput("malformed"),
        errors.NotFound("gone"),
        errors.DeadlineExceeded("late"),
        errors.PermissionDenied("no"),
        errors.Cancelled("peer gave up"),
    ]
)
DELAYS = st.sampled_from([0.0, 0.0, 0.0, NEVER])
AUDIT_FAULTS = st.sampled_from([None, None, None, errors.Unavailable("disk full")])
scripts = st.builds(Script, error=FAULTS, delay_s=DELAYS)
written = st.builds(
    Written,
    error=FAULTS,
    delay_s=DELAYS,
    text=st.sampled_from(
        ["The excess for collision is EUR 500.", "EUR 500", ABSTENTION, "", "The passages do not say"]
    ),
    mean_logprob=st.sampled_from([-0.01, -3.0, 0.0, float("nan"), float("-inf")]),
    late_error=FAULTS,
    lineage_adapter=st.sampled_from([None, None, ""]),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    retriever, embedder = draw(scripts), draw(scripts)
    world = World(
        embedder=FakeEmbedder(error=embedder.error, delay_s=embedder.delay_s),
        retriever=FakeRetriever(
            error=retriever.error, delay_s=retriever.delay_s, vector_error=draw(FAULTS), passages=draw(passages)
        ),
        audit=FakeAudit(opening=Script(error=draw(AUDIT_FAULTS)), closing=Script(error=draw(AUDIT_FAULTS))),
        stream_drafts=draw(st.booleans()),
    )
    world.generator.listing = draw(scripts)
    world.generator.loaded = frozenset(draw(st.sets(st.sampled_from(["answers", "reading"]))))
    world.generator.sequences = {name: draw(written) for name in ("", "answers", "reading")}
    return world


passages = st.integers(0, 2).map(lambda number: FakeRetriever().passages[:number])


@settings(max_examples=300)
@given(
    world=worlds(),
    policy=st.sampled_from(["finetuned", "rag", "cascade"]),
    leaves_after=st.none() | st.integers(0, 60),
    timeout_s=st.sampled_from([0.02, 0.05]),
)
def test_every_answer_ends_once(world: World, policy: str, leaves_after: int | None, timeout_s: float):
    asyncio.run(one_answer(world, policy=policy, leaves_after=leaves_after, timeout_s=timeout_s))


async def one_answer(world: World, *, policy: str, leaves_after: int | None, timeout_s: float) -> None:
    engine = world.engine()
    asked = question(policy=policy, timeout_s=timeout_s, history=history("What is insured?"))
    asking = asyncio.create_task(engine.answer(asked, world.emit))
    if leaves_after is not None:
        for _ in range(leaves_after):
            await asyncio.sleep(0)
        asking.cancel()
    await asyncio.wait({asking})
    await engine.stop()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert world.generator.num_running == 0
    assert world.registry.get_sample_value("tandem_router_open_answers") == 0
    check_records(world, asking)
    if asking.cancelled():
        return
    error = asking.exception()
    if error is not None:
        assert isinstance(error, errors.TandemError)
        assert error.code not in ("INTERNAL", "UNKNOWN", "NOT_FOUND")
        return
    check_answer(world, asking.result())


def check_records(world: World, asking: "asyncio.Task[Answer]") -> None:
    started = [event for event in world.events if isinstance(event, Started)]
    assert len(started) <= 1
    assert world.events[:1] == started
    assert len(world.audit.opened) <= 1
    if not world.audit.opened:
        assert world.audit.closed == []
        assert world.events == []
        return
    if world.audit.closing.error is not None:
        assert asking.cancelled() or asking.exception() is not None
        return
    (closing,) = world.audit.closed
    if asking.cancelled():
        # Who leaves while the record of a finished answer is being written does not change the record.
        assert closing.outcome is not Outcome.INTERRUPTED
    elif asking.exception() is not None:
        assert closing.outcome is Outcome.FAILED
        assert closing.error_code
    else:
        assert closing.outcome in (Outcome.ANSWERED, Outcome.ABSTAINED)


def check_answer(world: World, answer: Answer) -> None:
    draft = answer.draft
    assert draft.text
    assert draft.abstained == (draft.text == ABSTAINED_TEXT)
    assert tuple(event for event in world.events if isinstance(event, DecisionStep)) == answer.steps
    assert answer.timings[-1].stage == "total"
    if draft.route is Route.FINETUNED:
        assert draft.lineage is not None
        assert draft.lineage.adapter == "answers"
        assert draft.citations == ()
    for citation in draft.citations:
        assert citation.chunk_id in {passage.chunk_id for passage in draft.passages}
    if not draft.abstained:
        assert last_draft(world) == draft.text


def last_draft(world: World) -> str:
    text = ""
    for event in world.events:
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, DecisionStep) and event.kind in (StepKind.ESCALATE, StepKind.FALL_BACK):
            text = ""
    return text.strip()
