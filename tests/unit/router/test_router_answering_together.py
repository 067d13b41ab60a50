"""What runs at the same time, and that a path which lost gives its place in the generator back at once."""

import asyncio
from dataclasses import replace

import pytest

from services.router.domain import Allowance, Answer, Route, StepKind
from tandem import errors
from tests.fakes.router import DOMAIN, NEVER, World, Written, question
from tests.fakes.router_calibration import artefact_of
from tests.fakes.router_gates import Gate, GatedEmbedder, GatedWritten, gated_audit
from tests.fakes.router_worlds import DOWN, deltas_after_last_discard, world_with


async def turn() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def asking(world: World, policy: str) -> "asyncio.Task[Answer]":
    return asyncio.create_task(world.ask(question(policy=policy)))


async def test_dual_has_both_drafts_written_at_once_and_frees_the_losers_place_before_it_answers() -> None:
    gate = Gate()
    world = world_with(answers=GatedWritten(gate=gate), reading=Written(delay_s=NEVER))
    world.audit = gated_audit(gate)
    asked = asking(world, "dual")
    await turn()
    gate.open("audit")
    await turn()
    assert sorted(adapter for adapter, _ in world.generator.prompts) == ["answers", "reading"]
    assert world.generator.num_running == 2
    while gate.waiting and gate.waiting[0][0] == "generator":
        gate.open()
        await turn()
    assert [part for part, _ in gate.waiting] == ["audit"]
    assert world.generator.num_running == 0
    gate.open()
    assert (await asked).draft.route is Route.FINETUNED


async def test_dual_frees_the_adapters_place_while_passages_are_still_read() -> None:
    gate = Gate()
    world = world_with(answers=Written(delay_s=NEVER), reading=GatedWritten(gate=gate))
    world.domain = replace(DOMAIN, artefact=artefact_of(threshold=0.5, features=("scope_distance",)))
    asked = asking(world, "dual")
    await turn()
    assert [adapter for adapter, _ in world.generator.prompts][-1] == "reading"
    assert [part for part, _ in gate.waiting] == ["generator"]
    assert world.generator.num_running == 1
    while not asked.done():
        gate.open()
        await turn()
    assert asked.result().draft.route is Route.RAG


async def test_cascade_embeds_while_the_adapter_writes_and_searches_with_the_same_vector() -> None:
    gate = Gate()
    world = world_with(answers=GatedWritten(gate=gate))
    world.embedder = GatedEmbedder(gate=gate)
    world.domain = replace(DOMAIN, artefact=artefact_of(threshold=0.99, features=("scope_distance",)))
    asked = asking(world, "cascade")
    await turn()
    assert sorted(part for part, _ in gate.waiting) == ["embedder", "generator"]
    while not asked.done():
        gate.open()
        await turn()
    assert StepKind.ESCALATE in [step.kind for step in asked.result().steps]
    assert len(world.embedder.texts) == 1
    assert [vector is None for _, vector in world.retriever.queries] == [False]


async def test_finetuned_embeds_while_the_adapter_writes_where_its_calibration_needs_the_distance() -> None:
    gate = Gate()
    world = world_with(answers=GatedWritten(gate=gate))
    world.embedder = GatedEmbedder(gate=gate)
    artefact = artefact_of(threshold=None, features=("scope_distance",))
    world.domain = replace(DOMAIN, artefact=artefact)
    asked = asking(world, "finetuned")
    await turn()
    assert sorted(part for part, _ in gate.waiting) == ["embedder", "generator"]
    while not asked.done():
        gate.open()
        await turn()
    confidence = asked.result().draft.confidence
    assert confidence is not None
    assert confidence.calibration == artefact.version


@pytest.mark.parametrize("lacking", ["embedder", "room"])
async def test_finetuned_answers_uncalibrated_where_the_distance_cannot_be_had(lacking: str) -> None:
    world = world_with()
    world.domain = replace(DOMAIN, artefact=artefact_of(threshold=None, features=("scope_distance",)))
    if lacking == "embedder":
        world.embedder.error = DOWN
    allowance = Allowance(max_calls=1) if lacking == "room" else Allowance()
    draft = (await world.ask(replace(question(policy="finetuned"), allowance=allowance))).draft
    assert draft.route is Route.FINETUNED
    assert not draft.abstained
    assert draft.confidence is None or not draft.confidence.calibration
    assert len(world.embedder.texts) == (1 if lacking == "embedder" else 0)


async def test_a_draft_is_not_begun_anew_once_some_of_it_was_told() -> None:
    world = world_with(reading=Written(late_error=errors.NotFound("the adapter has just gone")))
    answer = await world.ask(question(policy="rag"))
    assert [adapter for adapter, _ in world.generator.prompts] == ["reading"]
    assert answer.degraded[0].component == "generator"
    assert deltas_after_last_discard(world) == answer.draft.text
