"""Callers who leave and deadlines that pass: slots, blocks and pins come back, and not too early."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.domain import Mixing, ScoreInput, ScoreItem
from tandem.errors import DeadlineExceeded, Internal, InvalidInput, Overloaded
from tests.fakes.generator import ToyRunner
from tests.fakes.generator_engine import Bench, Pins, Watchful, ask, running, text_of, tokens_of, tokens_of_when_allowed


async def test_a_cancelled_caller_frees_its_slot_within_one_step() -> None:
    runner = ToyRunner(reply=lambda prompt: "x" * 90, gated=True)
    async with running(runner, max_running=1) as bench:
        caller = asyncio.create_task(text_of(bench.engine, ask("first", max_tokens=90)))
        await bench.entered()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        other = asyncio.create_task(text_of(bench.engine, ask("other", max_tokens=1)))
        runner.allow(2)
        await other
        assert len(runner.steps) == 2
    assert bench.value("sequences_total", reason="cancelled") == 1


async def test_a_pin_outlives_the_step_that_runs_on_it() -> None:
    pins = Pins()
    async with running(ToyRunner(gated=True)) as bench:
        events = bench.engine.generate(ask(pins=(pins.pin(),), max_tokens=50))
        await anext(events)
        await bench.entered()
        await events.aclose()
        assert pins.released == []
        await tokens_of_when_allowed(bench)
        assert pins.released == ["law"]


async def test_a_waiting_caller_who_leaves_is_never_read() -> None:
    runner = ToyRunner(reply=lambda prompt: "x" * 20, gated=True)
    pins = Pins()
    async with running(runner, max_running=1) as bench:
        first = asyncio.create_task(text_of(bench.engine, ask("first")))
        await bench.entered()
        second = asyncio.create_task(text_of(bench.engine, ask("second", pins=(pins.pin(),))))
        await bench.waiting(1)
        second.cancel()
        runner.allow(1000)
        await first
        assert pins.released == ["law"]
    assert {work.tokens for step in runner.steps for work in step.works if len(work.tokens) > 1} == {tuple(b"first")}


async def test_a_deadline_is_answered_while_a_step_goes_on() -> None:
    pins = Pins()
    async with running(ToyRunner(gated=True), max_running=1) as bench:
        late = time.monotonic() + 0.03
        callers = [
            asyncio.create_task(text_of(bench.engine, ask(str(n), deadline=late, pins=(pins.pin(),)))) for n in range(2)
        ]
        await bench.entered()
        ended = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(error) for error in ended] == [DeadlineExceeded] * 2
        assert pins.released == []
        await tokens_of_when_allowed(bench)
        assert pins.released == ["law"] * 2
    assert bench.value("sequences_total", reason="deadline") == 2


@pytest.mark.parametrize("leave", ["close", "throw", "drop"])
async def test_a_generation_that_is_never_begun_releases_its_pins(leave: str) -> None:
    pins = Pins()
    async with running() as bench:
        events = bench.engine.generate(ask(pins=(pins.pin(),)))
        if leave == "close":
            await events.aclose()
        elif leave == "throw":
            with pytest.raises(ValueError):
                await events.athrow(ValueError("gone"))
        else:
            del events
        assert pins.released == ["law"]


@settings(max_examples=25)
@given(st.data())
async def test_whoever_leaves_whenever_all_pins_and_blocks_come_back(data: st.DataObject) -> None:
    pins = Pins()
    runner = Watchful(num_blocks=12, shares_blocks=data.draw(st.booleans()))
    runner.pins = pins
    limits = {"max_running": data.draw(st.integers(1, 4)), "max_prefill_tokens": data.draw(st.integers(1, 16))}
    async with running(runner, max_waiting=20, **limits) as bench:
        callers = [asyncio.create_task(_caller(data.draw(_behaviour), bench, pins)) for _ in range(8)]
        await asyncio.wait_for(asyncio.gather(*callers), 60)
        runner.fail_next = False
        await tokens_of(bench.engine, ask("last", max_tokens=1))
    assert len(pins.released) == pins.made
    assert bench.failures == 0


_behaviour = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["aaaabbbb", "aaaabbbbcc", "c", "", "aaaabbbbccccddddd"]),
        "delay": st.integers(0, 30),
        "events": st.none() | st.integers(0, 12),
        "kind": st.sampled_from(["generate", "generate", "blend", "score"]),
        "deadline": st.none() | st.floats(0, 0.02),
        "fails": st.booleans(),
        "mixing": st.sampled_from(Mixing),
    }
)


async def _caller(behaviour: dict[str, Any], bench: Bench, pins: Pins) -> None:
    """Makes one call, and leaves after some events."""
    for _ in range(behaviour["delay"]):
        await asyncio.sleep(0)
    deadline = None if behaviour["deadline"] is None else time.monotonic() + behaviour["deadline"]
    prompt, left, name = behaviour["prompt"], behaviour["events"], f"adapter-{pins.made}"
    if behaviour["fails"] and behaviour["delay"] % 5 == 0:
        bench.runner.fail_next = True
    try:
        if behaviour["kind"] == "score":
            items = tuple(ScoreItem(prompt=prompt + str(n), continuation="xyz") for n in range(4))
            scoring = bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin(name), deadline=deadline))
            await asyncio.wait_for(scoring, None if left is None else left / 1000)
            return
        prompts = (prompt, "other") if behaviour["kind"] == "blend" else (prompt,)
        request = ask(
            *prompts, pins=tuple(pins.pin(name + other) for other in prompts), deadline=deadline, max_tokens=10, seed=1
        )
        async with aclosing(bench.engine.generate(request)) as events:
            seen = 0
            while left is None or seen < left:
                await anext(events)
                seen += 1
    except (StopAsyncIteration, TimeoutError, InvalidInput, DeadlineExceeded, Internal, Overloaded):
        pass
