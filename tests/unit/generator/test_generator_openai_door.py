"""Whose turn it is at the door before another server."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.generator.backend.openai.door import Door
from services.generator.domain import Priority
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Overloaded

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class Visits:
    """Lets callers in one after the other and notes who came in."""

    def __init__(self, *, max_running: int = 1, max_waiting: int = 100) -> None:
        self.registry = CollectorRegistry()
        self.door = Door(max_running=max_running, max_waiting=max_waiting, metrics=GeneratorMetrics(self.registry))
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def arrive(self, name: str, priority: Priority = INTERACTIVE, *, tokens: int = 10) -> asyncio.Task[None]:
        async def visit() -> None:
            flow = await self.door.enter(name, priority)
            try:
                self.order.append(name)
                self.door.charge(flow, tokens)
                await asyncio.sleep(0)
            finally:
                self.door.leave(flow, seconds=1.0)

        task = asyncio.create_task(visit())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    def gauge(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"tandem_generator_{name}_sequences")


async def test_a_tenant_with_many_does_not_hold_up_one_with_a_single():
    visits = Visits()
    held = await visits.door.enter("holder", INTERACTIVE)
    for _ in range(5):
        await visits.arrive("many")
    await visits.arrive("one")
    visits.door.leave(held)
    await asyncio.gather(*visits.tasks)
    assert visits.order.index("one") == 1


async def test_batch_gives_way_and_still_comes_in():
    visits = Visits()
    held = await visits.door.enter("holder", INTERACTIVE)
    for _ in range(12):
        await visits.arrive("batch", BATCH)
        await visits.arrive("person")
    visits.door.leave(held)
    await asyncio.gather(*visits.tasks)
    assert visits.order[:11].count("batch") == 2
    assert visits.order.count("batch") == 12


async def test_silence_earns_no_credit():
    visits = Visits()
    held = await visits.door.enter("busy", INTERACTIVE)
    visits.door.charge(held, 1000)
    for _ in range(4):
        await visits.arrive("busy")
        await visits.arrive("late")
    visits.door.leave(held)
    await asyncio.gather(*visits.tasks)
    assert visits.order[:4].count("busy") == 2


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    visits = Visits(max_waiting=1)
    held = await visits.door.enter("a", INTERACTIVE)
    await visits.arrive("b")
    with pytest.raises(Overloaded) as caught:
        await visits.door.enter("c", INTERACTIVE)
    assert 0.2 <= caught.value.retry_after_s <= 60
    visits.door.leave(held)
    await asyncio.gather(*visits.tasks)
    assert (visits.gauge("waiting"), visits.gauge("running")) == (0, 0)


async def test_who_leaves_the_queue_frees_the_place_in_it():
    visits = Visits(max_waiting=1)
    held = await visits.door.enter("a", INTERACTIVE)
    gone = await visits.arrive("b")
    gone.cancel()
    await asyncio.sleep(0)
    assert visits.gauge("waiting") == 0
    stays = await visits.arrive("c")
    visits.door.leave(held)
    await stays
    assert visits.order == ["c"]


async def test_who_is_cancelled_as_the_turn_comes_passes_it_on():
    visits = Visits()
    held = await visits.door.enter("a", INTERACTIVE)
    gone, stays = await visits.arrive("b"), await visits.arrive("c")
    visits.door.leave(held)
    gone.cancel()
    await stays
    assert visits.order == ["c"]
    assert visits.gauge("running") == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Priority), st.integers(1, 50)), max_size=40))
def test_everyone_who_waits_comes_in(arrivals: list[tuple[str, Priority, int]]):
    async def run() -> Visits:
        visits = Visits(max_running=2)
        for name, priority, tokens in arrivals:
            await visits.arrive(name, priority, tokens=tokens)
        await asyncio.wait_for(asyncio.gather(*visits.tasks), 30)
        return visits

    visits = asyncio.run(run())
    assert sorted(visits.order) == sorted(name for name, _, _ in arrivals)
    assert (visits.gauge("waiting"), visits.gauge("running")) == (0, 0)
