"""The engine before its start and from its stop on."""

import asyncio

import pytest

from services.generator.domain import Limits
from tandem.errors import TandemError, Unavailable
from tests.fakes.generator import ToyRunner
from tests.fakes.generator_engine import Bench, Pins, ask, text_of


async def test_stopping_fails_what_is_left_and_refuses_what_comes() -> None:
    pins = Pins()
    runner = ToyRunner(reply=lambda prompt: "x" * 50, gated=True)
    bench = Bench(runner, Limits(max_running=1))
    await bench.engine.start()
    tasks = [asyncio.create_task(text_of(bench.engine, ask(str(n), pins=(pins.pin(),)))) for n in range(2)]
    await bench.entered()
    await bench.waiting(1)
    stopping = asyncio.create_task(bench.engine.stop())
    await asyncio.sleep(0)
    assert pins.released == []
    runner.allow(1000)
    await stopping
    ended: list[TandemError | BaseException | object] = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in ended)
    assert pins.released == ["law"] * 2
    with pytest.raises(Unavailable):
        await text_of(bench.engine, ask())
    assert bench.failures == 0
    await bench.engine.stop()


async def test_an_engine_that_was_not_started_refuses() -> None:
    bench = Bench(ToyRunner(), Limits())
    with pytest.raises(Unavailable):
        await text_of(bench.engine, ask())
    await bench.engine.stop()
