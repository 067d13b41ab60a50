"""Admission: bounded, first come first served, and nothing leaks when a waiter leaves."""

import asyncio

from services.embedder.engine.admission import Admission


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_admits_up_to_its_bound() -> None:
    admission = Admission(max_tokens=100)
    admission.take(60)
    assert admission.excess(40) == 0
    assert admission.excess(45) == 5


def test_an_empty_queue_admits_a_demand_beyond_the_bound() -> None:
    assert Admission(max_tokens=100).excess(500) == 0


async def test_waits_for_half_of_the_room_in_order() -> None:
    admission = Admission(max_tokens=100)
    admission.take(50)
    order: list[str] = []

    async def enter(name: str, tokens: int) -> None:
        await admission.wait(tokens)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(enter("large", 40))
        await settle()
        group.create_task(enter("small", 5))
        await settle()
        assert order == []
        admission.release(30)
        await settle()
        assert order == []  # the small one would fit, but is not first
        admission.release(15)
        await settle()
        assert order == ["large", "small"]
    assert admission.held == 50


async def test_a_waiter_that_leaves_lets_the_next_one_in() -> None:
    admission = Admission(max_tokens=100)
    admission.take(40)
    large = asyncio.create_task(admission.wait(40))
    await settle()
    small = asyncio.create_task(admission.wait(10))
    await settle()
    large.cancel()
    await settle()
    assert large.cancelled()
    assert small.done()
    assert admission.held == 50


async def test_a_waiter_cancelled_after_it_was_admitted_gives_its_tokens_back() -> None:
    admission = Admission(max_tokens=100)
    admission.take(100)
    waiter = asyncio.create_task(admission.wait(10))
    await settle()
    admission.release(100)
    waiter.cancel()
    await settle()
    assert waiter.cancelled()
    assert admission.held == 0


async def test_a_waiter_cancelled_in_the_turn_of_a_release_takes_nothing() -> None:
    admission = Admission(max_tokens=100)
    admission.take(100)
    waiter = asyncio.create_task(admission.wait(10))
    await settle()
    waiter.cancel()
    admission.release(100)
    await settle()
    assert waiter.cancelled()
    assert admission.held == 0
