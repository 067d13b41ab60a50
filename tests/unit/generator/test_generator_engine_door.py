"""What the engine refuses before it computes anything."""

import asyncio
import time

import pytest

from services.generator.domain import Feature, GenerateInput, ScoreInput, ScoreItem
from tandem.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, Overloaded
from tests.fakes.generator import ToyRunner
from tests.fakes.generator_engine import Pins, ask, running, text_of


async def test_a_deadline_that_has_passed_on_arrival_is_refused_at_the_door() -> None:
    async with running() as bench:
        with pytest.raises(DeadlineExceeded):
            await text_of(bench.engine, ask(deadline=time.monotonic() - 1))
    assert bench.runner.steps == []


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    pins = Pins()
    runner = ToyRunner(reply=lambda prompt: "x" * 20, gated=True)
    async with running(runner, max_running=1, max_waiting=2) as bench:
        tasks = [asyncio.create_task(text_of(bench.engine, ask("0")))]
        await bench.entered()
        tasks += [asyncio.create_task(text_of(bench.engine, ask(str(n)))) for n in range(1, 3)]
        await bench.waiting(2)
        with pytest.raises(Overloaded) as refused:
            await text_of(bench.engine, ask("too many", pins=(pins.pin(),)))
        assert 0 < refused.value.retry_after_s <= 60
        assert pins.released == ["law"]
        with pytest.raises(Overloaded):
            await bench.engine.score(
                ScoreInput(items=(ScoreItem(prompt="a", continuation="b"),), tenant="t", pin=pins.pin())
            )
        assert pins.released == ["law", "law"]
        runner.allow(1000)
        await asyncio.gather(*tasks)
    assert bench.value("sequences_refused_total") == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask("x" * 100), "prompt"),
        (ask("fits", "x" * 120), "blend.prompts[1].prompt"),
        (ask("x" * 30, "y" * 30), "blend"),
    ],
)
async def test_a_prompt_that_can_never_fit_is_refused_with_the_limit(request_: GenerateInput, field: str) -> None:
    async with running(ToyRunner(num_blocks=14)) as bench:
        with pytest.raises(InvalidInput, match="tokens; with what follows at most") as refused:
            await text_of(bench.engine, request_)
    assert refused.value.reason == "PROMPT_TOO_LONG"
    assert refused.value.violations[0].field == field
    assert bench.runner.steps == []


@pytest.mark.parametrize(
    ("item", "field", "reason"),
    [
        (ScoreItem(prompt="", continuation="x"), "items[0].prompt", "INVALID_INPUT"),
        (ScoreItem(prompt="x", continuation=""), "items[0].continuation", "INVALID_INPUT"),
        (ScoreItem(prompt="x" * 90, continuation="y" * 11), "items[0].prompt", "PROMPT_TOO_LONG"),
    ],
)
async def test_an_item_that_cannot_be_scored_is_refused_by_name(item: ScoreItem, field: str, reason: str) -> None:
    pins = Pins()
    async with running() as bench:
        with pytest.raises(InvalidInput) as refused:
            await bench.engine.score(ScoreInput(items=(item,), tenant="t", pin=pins.pin()))
    assert (refused.value.violations[0].field, refused.value.reason) == (field, reason)
    assert pins.released == ["law"]


@pytest.mark.parametrize("token", [-1, 257, 1 << 40])
async def test_a_bias_on_a_token_that_is_none_is_refused(token: int) -> None:
    async with running() as bench:
        with pytest.raises(InvalidInput, match="logit_bias"):
            await text_of(bench.engine, ask(logit_bias=((5, 1.0), (token, 1.0))))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerateInput(streams=(), tenant="t"), "prompt"),
        (ask(max_tokens=0), "sampling.max_tokens"),
        (ScoreInput(items=(), tenant="t"), "items"),
    ],
)
async def test_a_request_for_nothing_is_refused(request_: GenerateInput | ScoreInput, field: str) -> None:
    async with running() as bench:
        engine = bench.engine
        call = engine.score(request_) if isinstance(request_, ScoreInput) else text_of(engine, request_)
        with pytest.raises(InvalidInput) as refused:
            await call
    assert refused.value.violations[0].field == field


async def test_an_empty_prompt_is_refused() -> None:
    async with running() as bench:
        with pytest.raises(InvalidInput, match="prompt has no tokens"):
            await text_of(bench.engine, ask(""))


async def test_what_the_backend_lacks_is_refused() -> None:
    pins = Pins()
    async with running(features=frozenset({Feature.ENTROPY})) as bench:
        for request in (ask("a", "b"), ask(pins=(pins.pin(),))):
            with pytest.raises(FailedPrecondition) as refused:
                await text_of(bench.engine, request)
            assert refused.value.reason == "UNSUPPORTED_BY_BACKEND"
        with pytest.raises(FailedPrecondition):
            await bench.engine.score(ScoreInput(items=(ScoreItem(prompt="a", continuation="b"),), tenant="t"))
    assert pins.released == ["law"]
