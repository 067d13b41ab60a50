"""Whatever fails, whoever leaves: one end for each answer, one opened and one closed record, nothing left running."""

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.domain import Below
from tandem import errors
from tandem.prompts import ABSTENTION
from tests.fakes.router import (
    DOMAIN,
    NEVER,
    FakeAudit,
    FakeEmbedder,
    FakeRetriever,
    Script,
    World,
    Written,
    history,
    question,
)
from tests.fakes.router_worlds import check_end

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
    below, threshold = draw(st.sampled_from(list(Below))), draw(st.sampled_from([0.5, 0.99]))
    world.domain = replace(DOMAIN, below=below, threshold=threshold, min_groundedness=draw(st.sampled_from([0.0, 0.9])))
    world.generator.listing = draw(scripts)
    world.generator.loaded = frozenset(draw(st.sets(st.sampled_from(["answers", "reading"]))))
    world.generator.sequences = {name: draw(written) for name in ("", "answers", "reading")}
    return world


passages = st.integers(0, 2).map(lambda number: FakeRetriever().passages[:number])


@settings(max_examples=300)
@given(
    world=worlds(),
    policy=st.sampled_from(["auto", "cascade", "dual", "ensemble", "finetuned", "rag"]),
    leaves_after=st.none() | st.integers(0, 60),
    timeout_s=st.sampled_from([0.02, 0.05]),
)
def test_every_answer_ends_once(world: World, policy: str, leaves_after: int | None, timeout_s: float):
    asyncio.run(one_answer(world, policy=policy, leaves_after=leaves_after, timeout_s=timeout_s))


async def one_answer(world: World, *, policy: str, leaves_after: int | None, timeout_s: float) -> None:
    engine = world.engine()
    asked = question(policy=policy, domain=world.domain, timeout_s=timeout_s, history=history("What is insured?"))
    asking = asyncio.create_task(engine.answer(asked, world.emit))
    if leaves_after is not None:
        for _ in range(leaves_after):
            await asyncio.sleep(0)
        asking.cancel()
    await asyncio.wait({asking})
    await engine.stop()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    check_end(world, asking)
