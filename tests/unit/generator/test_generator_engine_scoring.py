"""Scorings by the engine: their order, their cost, and their one pin for all items."""

import asyncio

import pytest

from services.generator.domain import ScoreInput, ScoreItem
from tandem.errors import Internal
from tests.fakes.generator import ToyRunner, score_alone
from tests.fakes.generator_engine import Pins, Watchful, running, tokens_of_when_allowed


async def test_scores_come_in_order_with_what_they_cost() -> None:
    async with running(max_running=2) as bench:
        items = tuple(ScoreItem(prompt="one of these:", continuation=text) for text in ("first", "b", "the third"))
        scores, usage = await bench.engine.score(ScoreInput(items=items, tenant="t"))
    for item, score in zip(items, scores, strict=True):
        wanted = score_alone(b"one of these:", item.continuation.encode())
        assert [token.logprob for token in score.tokens] == [token.logprob for token in wanted]
        assert score.greedy == all(token.greedy for token in wanted)
        assert "".join(token.text for token in score.tokens) == item.continuation
    assert (usage.input_tokens, usage.output_tokens) == (3 * 13 + 5 + 1 + 9, 0)
    assert usage.cached_tokens == 24
    assert bench.value("scored_tokens_total") == 15


async def test_a_scoring_counts_once_at_the_door_however_many_items_it_has() -> None:
    items = tuple(ScoreItem(prompt=f"prompt {n}", continuation="abc") for n in range(100))
    async with running(max_running=2, max_waiting=1) as bench:
        scores, _ = await bench.engine.score(ScoreInput(items=items, tenant="t"))
    assert len(scores) == 100
    assert bench.value("sequences_total", reason="stop") == 100


async def test_a_scoring_that_is_left_frees_all_its_sequences() -> None:
    pins = Pins()
    async with running(ToyRunner(gated=True), max_running=2) as bench:
        items = tuple(ScoreItem(prompt=f"prompt {n}", continuation="abc") for n in range(10))
        caller = asyncio.create_task(bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin())))
        await bench.entered()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert pins.released == []
        bench.runner.allow(1)
        await tokens_of_when_allowed(bench)
        assert pins.released == ["law"]
    assert bench.value("sequences_total", reason="cancelled") == 10


async def test_a_scoring_keeps_its_pin_until_the_last_item_is_done() -> None:
    pins = Pins()
    runner = Watchful()
    runner.pins = pins
    items = tuple(ScoreItem(prompt=f"prompt {n}", continuation="abc") for n in range(5))
    async with running(runner, max_running=1) as bench:
        await bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin()))
    assert pins.released == ["law"]


async def test_one_failed_item_fails_a_scoring_whole() -> None:
    pins = Pins()
    async with running(max_running=1) as bench:
        bench.runner.fail_next = True
        items = tuple(ScoreItem(prompt=f"prompt {n}", continuation="abc") for n in range(5))
        with pytest.raises(Internal):
            await bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin()))
    assert pins.released == ["law"]
    assert len(bench.runner.steps) < 5


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_scoring_that_is_never_begun_releases_its_pin() -> None:
    pins = Pins()
    async with running() as bench:
        items = (ScoreItem(prompt="a", continuation="b"),)
        caller = asyncio.create_task(bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin())))
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        del caller
        assert pins.released == ["law"]
