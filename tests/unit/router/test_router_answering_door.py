"""Questions that are refused before a record of them is opened."""

import asyncio

import pytest

from tandem import errors
from tests.fakes.router import NEVER, World, Written, question
from tests.fakes.router_worlds import world_with


async def test_an_unknown_policy_lists_the_known_ones_and_leaves_no_record():
    world = World()
    with pytest.raises(errors.InvalidInput, match="auto, cascade, dual, ensemble, finetuned, rag"):
        await world.ask(question(policy="oracle"))
    assert world.audit.opened == []


async def test_too_many_questions_are_refused_at_the_door():
    world = world_with(answers=Written(delay_s=NEVER))
    world.max_running, world.max_waiting = 1, 1
    engine = world.engine()
    tasks = [asyncio.create_task(engine.answer(question(policy="finetuned"), world.emit)) for _ in range(2)]
    await world.generator.running.wait()
    with pytest.raises(errors.Overloaded) as caught:
        await engine.answer(question(), world.emit)
    assert caught.value.retry_after_s > 0
    assert len(world.audit.opened) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert world.registry.get_sample_value("tandem_router_open_answers") == 0
    assert world.registry.get_sample_value("tandem_router_waiting_answers") == 0
