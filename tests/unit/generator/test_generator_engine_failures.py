"""Steps, weights, texts and the engine itself that fail: who is told, and who is spared."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from services.generator.domain import Limits, ScoreInput, ScoreItem, Step, StepResult
from tandem.errors import FailedPrecondition, Internal, TandemError, Unavailable
from tests.fakes.generator import ByteTokenizer, ToyRunner
from tests.fakes.generator_engine import Bench, Pins, ask, running, said, text_of


class Clinging(ToyRunner):
    """Fails to forget, once."""

    clings = True

    def release(self, streams: Collection[int]) -> None:
        super().release(streams)
        if self.clings:
            self.clings = False
            raise RuntimeError("still there")


@pytest.mark.parametrize("others", [0, 2])
async def test_a_runner_that_fails_to_forget_fails_no_one(others: int) -> None:
    async with running(Clinging(reply=lambda prompt: prompt * 3), max_running=2) as bench:
        for prompt in ("a", "b"):
            requests = [ask(prompt), *(ask(prompt + "!" * n) for n in range(1, others + 1))]
            answers = await asyncio.gather(*(text_of(bench.engine, request) for request in requests))
            assert answers[0][0] == prompt * 3
    assert bench.failures == 0


async def test_a_failing_step_fails_its_sequences_and_not_the_service() -> None:
    pins = Pins()
    async with running(said("fine")) as bench:
        bench.runner.fail_next = True
        with pytest.raises(Internal, match="the model failed"):
            await text_of(bench.engine, ask(pins=(pins.pin(),)))
        text, _ = await text_of(bench.engine, ask())
    assert text == "fine"
    assert pins.released == ["law"]
    assert (bench.value("sequences_total", reason="failed"), bench.failures) == (1, 0)


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [("overflowing", FailedPrecondition, "NOT_FINITE"), ("missing", Unavailable, "ADAPTER_NOT_LOADED")],
)
async def test_weights_that_overflow_or_are_gone_end_their_own_sequences_and_no_others(
    fault: str, error: type[TandemError], reason: str
) -> None:
    pins = Pins()
    async with running() as bench:
        prompts = ["aaaabbbb", "cccc", "ddddeeeeff"]
        expected = [await text_of(bench.engine, ask(prompt, max_tokens=6)) for prompt in prompts]
        bad = pins.pin()
        getattr(bench.runner, fault).add(bad.adapter.key)
        others = [asyncio.create_task(text_of(bench.engine, ask(prompt, max_tokens=6))) for prompt in prompts]
        with pytest.raises(error) as caught:
            await text_of(bench.engine, ask("aaaabbbb", pins=(bad,)))
        assert caught.value.reason == reason
        found = [await other for other in others]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert pins.released == ["law"]
    assert bench.runner.complaints == []


class Forgetful(ToyRunner):
    """Returns a result without the tokens that were asked for, once."""

    forget = True

    def run(self, step: Step) -> StepResult:
        result = super().run(step)
        if self.forget:
            self.forget = False
            return StepResult({}, {})
        return result


async def test_a_result_that_lacks_a_token_counts_as_a_failed_step() -> None:
    async with running(Forgetful(reply=lambda prompt: "fine")) as bench:
        with pytest.raises(Internal):
            await text_of(bench.engine, ask())
        assert (await text_of(bench.engine, ask()))[0] == "fine"


class Stumbling(ByteTokenizer):
    """Cannot decode one letter."""

    def decode(self, tokens: Any) -> str:
        if ord("!") in tokens:
            raise ValueError("no text")
        return super().decode(tokens)


@pytest.mark.parametrize("stop", [(), ("never",)])
async def test_text_that_cannot_be_decoded_fails_its_sequence_alone(stop: tuple[str, ...]) -> None:
    runner = ToyRunner(reply=lambda prompt: "ab!cd" if prompt == "bad" else "abcd")
    async with running(runner, tokenizer=Stumbling()) as bench:
        bad, good = await asyncio.gather(
            text_of(bench.engine, ask("bad", stop=stop)),
            text_of(bench.engine, ask("good", stop=stop)),
            return_exceptions=True,
        )
    assert isinstance(bad, Internal)
    assert not isinstance(good, BaseException)
    assert good[0] == "abcd"
    assert bench.failures == 0


async def test_a_bug_in_the_engine_leaves_no_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = Pins()
    runner = ToyRunner(gated=True)
    bench = Bench(runner, Limits(max_running=1))
    await bench.engine.start()
    callers: list[asyncio.Task[Any]] = [
        asyncio.create_task(text_of(bench.engine, ask(str(n), pins=(pins.pin(),)))) for n in range(3)
    ]
    items = (ScoreItem(prompt="a", continuation="b"),)
    callers.append(asyncio.create_task(bench.engine.score(ScoreInput(items=items, tenant="t", pin=pins.pin()))))
    await bench.entered()
    await bench.waiting(3)

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(bench.engine._scheduler, "apply", fail)
    runner.allow(10)
    ended = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 10)
    assert [type(error) for error in ended] == [Internal] * 4
    assert pins.released == ["law"] * 4
    assert bench.failures == 1
    with pytest.raises(Unavailable):
        await text_of(bench.engine, ask(pins=(pins.pin(),)))
    assert len(pins.released) == 5
    await bench.engine.stop()
