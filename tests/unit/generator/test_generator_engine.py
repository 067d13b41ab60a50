"""The engine on a toy model: callers, deadlines, pins, failures, metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.generator.domain import (
    Adapter,
    Delta,
    Feature,
    Finished,
    FinishReason,
    GenerateInput,
    Limits,
    Mixing,
    ModelInfo,
    Pin,
    Priority,
    Sampling,
    ScoreInput,
    ScoreItem,
    Started,
    Step,
    StepResult,
    StreamInput,
)
from services.generator.engine import Engine
from services.generator.metrics import SPANS, GeneratorMetrics
from tandem.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidInput,
    Overloaded,
    TandemError,
    Unavailable,
)
from tests.fakes.generator import END, ByteTokenizer, ToyRunner, alone, score_alone

MODEL = ModelInfo(name="fake", sha256="0" * 64, max_context_tokens=100, precision="float32", vocabulary_size=257)


class Bench:
    def __init__(self, runner: ToyRunner, limits: Limits, **extras: Any) -> None:
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.runner = runner
        self.failures = 0
        self.engine = Engine(
            runner=runner,
            tokenizer=extras.pop("tokenizer", ByteTokenizer()),
            model=MODEL,
            limits=limits,
            metrics=GeneratorMetrics(self.registry),
            tracer=provider.get_tracer("test"),
            on_failure=self._failed,
            **extras,
        )

    def _failed(self) -> None:
        self.failures += 1

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"tandem_generator_{name}", labels) or 0.0

    async def waiting(self, count: int) -> None:
        for _ in range(10_000):
            if self.value("waiting_sequences") >= count:
                return
            await asyncio.sleep(0.001)
        raise TimeoutError(f"there were never {count} sequences waiting")

    async def entered(self) -> None:
        await asyncio.to_thread(self.runner.entered.acquire)

    def clean(self) -> None:
        """Checks that nothing is left of anyone; to be asked after the last step."""
        assert self.runner.complaints == []
        assert self.runner.streams == set()
        assert self.value("kv_blocks", state="used") == 0
        assert self.value("running_sequences") == self.value("waiting_sequences") == 0


@asynccontextmanager
async def running(runner: ToyRunner | None = None, **options: Any) -> AsyncIterator[Bench]:
    extras = {key: options.pop(key) for key in ("features", "tokenizer") if key in options}
    bench = Bench(runner or ToyRunner(), Limits(**options), **extras)
    await bench.engine.start()
    try:
        yield bench
    finally:
        bench.runner.allow(10_000)
        await bench.engine.stop()
        bench.clean()


def ask(
    *prompts: str,
    pins: tuple[Pin | None, ...] = (),
    deadline: float | None = None,
    tenant: str = "t",
    priority: Priority = Priority.INTERACTIVE,
    num_alternatives: int = 0,
    **sampling: Any,
) -> GenerateInput:
    prompts = prompts or ("hi",)
    streams = tuple(
        StreamInput(prompt=prompt, pin=pin, weight=1 / len(prompts))
        for prompt, pin in zip(prompts, pins or (None,) * len(prompts), strict=True)
    )
    return GenerateInput(
        streams=streams,
        tenant=tenant,
        deadline=deadline,
        priority=priority,
        num_alternatives=num_alternatives,
        sampling=Sampling(**sampling),
    )


def said(text: str) -> ToyRunner:
    return ToyRunner(reply=lambda prompt: text)


class Pins:
    """Hands out pins and counts their releases."""

    def __init__(self) -> None:
        self.made = 0
        self.released: list[str] = []
        self.held: set[str] = set()
        """Keys that may be run on."""

    def pin(self, name: str = "law") -> Pin:
        adapter = Adapter(tenant="t", name=name, sha256="f" * 64, rank=2, scale=1.0, num_parameters=1, read=bytes)
        self.made += 1
        self.held.add(adapter.key)
        return Pin(adapter, lambda: self._release(adapter))

    def _release(self, adapter: Adapter) -> None:
        self.released.append(adapter.name)
        self.held.discard(adapter.key)


class Watchful(ToyRunner):
    """Complains about steps on adapters whose pins are gone, before or after."""

    pins: Pins

    def run(self, step: Step) -> StepResult:
        try:
            return super().run(step)
        finally:
            if any(work.adapter is not None and work.adapter not in self.pins.held for work in step.works):
                self.complaints.append("a step ran on an adapter that may be gone")


async def text_of(engine: Engine, request: GenerateInput) -> tuple[str, Finished]:
    text = ""
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            if isinstance(event, Finished):
                return text + event.tail, event
    raise AssertionError("no last event")


async def tokens_of(engine: Engine, request: GenerateInput) -> list[int]:
    return [event.token.token_id async for event in engine.generate(request) if isinstance(event, Delta)]


async def test_started_comes_first_and_finished_last_with_a_delta_for_each_token() -> None:
    async with running(said("né")) as bench:
        events = [event async for event in bench.engine.generate(ask("hello"))]
    assert isinstance(events[0], Started)
    assert events[0].input_tokens == 5
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [delta.text for delta in deltas] == ["n", "", "é", ""]
    assert [delta.token.token_id for delta in deltas] == [*"né".encode(), END]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.output_tokens) == (FinishReason.STOP, 4)
    assert (finished.usage.input_tokens, finished.usage.computed_tokens) == (5, 5 + 3)
    assert (finished.confidence.mean_logprob, finished.confidence.max_entropy) == (-0.5, 1.0)
    assert (finished.confidence.min_margin, len(finished.streams)) == (0.25, 1)


async def test_max_tokens_ends_a_sequence_and_sends_what_was_held_for_a_stop_string() -> None:
    async with running(said("abcabc")) as bench:
        text, finished = await text_of(bench.engine, ask(max_tokens=4, stop=("abd",)))
    assert (text, finished.reason, finished.usage.output_tokens) == ("abca", FinishReason.LENGTH, 4)


async def test_a_stop_string_ends_a_sequence_at_the_token_that_completes_it() -> None:
    async with running(said("one. two")) as bench:
        text, finished = await text_of(bench.engine, ask(stop=(". ",)))
    assert (text, finished.reason, finished.usage.output_tokens) == ("one", FinishReason.STOP, 5)
    assert len(bench.runner.steps) == 5


async def test_callers_share_batches_and_get_their_own_output() -> None:
    async with running(max_running=8) as bench:
        requests = [ask(f"prompt number {n}", max_tokens=12, temperature=1.0, seed=n) for n in range(20)]
        outputs = await asyncio.gather(*(tokens_of(bench.engine, request) for request in requests))
    for request, output in zip(requests, outputs, strict=True):
        prompt = str(request.streams[0].prompt).encode()
        assert output == [choice.token_id for choice in alone([prompt], request.sampling)]
    assert max(len(step.works) for step in bench.runner.steps) == 8


async def test_a_blend_names_its_streams_weights_and_adapters() -> None:
    pins = Pins()
    async with running() as bench:
        request = ask("first", "second prompt", pins=(pins.pin("law"), None), max_tokens=6, seed=4)
        events = [event async for event in bench.engine.generate(request)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [(cost.lineage.adapter, cost.weight, cost.input_tokens) for cost in finished.streams] == [
        ("law", 0.5, 5),
        ("", 0.5, 13),
    ]
    key = request.pins[0].adapter.key
    wanted = alone([b"first", b"second prompt"], request.sampling, adapters=(key, None), weights=(0.5, 0.5))
    assert [event.token.token_id for event in events if isinstance(event, Delta)] == [c.token_id for c in wanted]
    assert pins.released == ["law"]
    assert bench.value("blended_rows_total") == 2 * len(wanted)


async def test_alternatives_come_with_their_text_when_asked_for() -> None:
    async with running() as bench:
        events = [event async for event in bench.engine.generate(ask(max_tokens=1, num_alternatives=2))]
    delta = events[1]
    assert isinstance(delta, Delta)
    assert [(alternative.token_id, alternative.text) for alternative in delta.token.alternatives] == [
        (97, "a"),
        (98, "b"),
    ]


async def test_a_seed_is_drawn_where_none_is_given() -> None:
    async with running() as bench:
        for _ in range(2):
            await tokens_of(bench.engine, ask(max_tokens=1, temperature=1.0))
        await tokens_of(bench.engine, ask(max_tokens=1, temperature=1.0, seed=7))
    seeds = [step.draws[0].sampling.seed for step in bench.runner.steps]
    assert len(set(seeds)) == 3
    assert seeds[2] == 7


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


async def tokens_of_when_allowed(bench: Bench) -> None:
    bench.runner.allow(100)
    await tokens_of(bench.engine, ask("another", max_tokens=2))


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


async def test_a_reader_that_is_slow_does_not_hold_up_others() -> None:
    async with running(said("x" * 50)) as bench:
        slow = bench.engine.generate(ask("slow", max_tokens=40))
        await anext(slow)
        text, _ = await text_of(bench.engine, ask("quick", max_tokens=20))
        assert len(text) == 20
        rest = [event async for event in slow]
    assert len(rest) == 41


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


async def test_output_is_cut_to_the_context_and_to_the_blocks() -> None:
    async with running(said("x" * 200)) as bench:
        _, finished = await text_of(bench.engine, ask("x" * 99, max_tokens=50))
        assert (finished.reason, finished.usage.output_tokens) == (FinishReason.LENGTH, 1)
    async with running(ToyRunner(num_blocks=5, reply=lambda prompt: "x" * 200)) as bench:
        _, finished = await text_of(bench.engine, ask("x" * 10, max_tokens=50))
        assert (finished.reason, finished.usage.output_tokens) == (FinishReason.LENGTH, 11)


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


async def test_without_entropy_there_is_none_in_tokens_and_confidence() -> None:
    async with running(features=frozenset()) as bench:
        events = [event async for event in bench.engine.generate(ask(max_tokens=2))]
    assert isinstance(events[1], Delta)
    assert (events[1].token.entropy, events[1].token.margin) == (None, None)
    assert isinstance(events[-1], Finished)
    assert events[-1].confidence.mean_entropy is None


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


async def test_weights_that_overflow_end_their_own_sequences_and_no_others() -> None:
    pins = Pins()
    async with running() as bench:
        prompts = ["aaaabbbb", "cccc", "ddddeeeeff"]
        expected = [await text_of(bench.engine, ask(prompt, max_tokens=6)) for prompt in prompts]
        bad = pins.pin()
        bench.runner.overflowing.add(bad.adapter.key)
        others = [asyncio.create_task(text_of(bench.engine, ask(prompt, max_tokens=6))) for prompt in prompts]
        with pytest.raises(FailedPrecondition, match="no finite numbers"):
            await text_of(bench.engine, ask("aaaabbbb", pins=(bad,)))
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


async def test_a_call_opens_the_declared_spans_and_puts_no_text_in_them() -> None:
    async with running(said("a secret")) as bench:
        await text_of(bench.engine, ask("another secret"))
        items = (ScoreItem(prompt="a third secret", continuation="secret"),)
        await bench.engine.score(ScoreInput(items=items, tenant="t"))
    spans = bench.spans.get_finished_spans()
    assert {span.name for span in spans} == set(SPANS)
    sequence = next(span for span in spans if span.name == "generator.sequence")
    assert sequence.attributes is not None
    assert sequence.attributes["gen_ai.usage.output_tokens"] == 9
    assert "secret" not in str([span.to_json() for span in spans])


async def test_what_happens_is_counted() -> None:
    runner = ToyRunner(num_blocks=16, reply=lambda prompt: "x" * 30)
    async with running(runner, max_running=4, max_prefill_tokens=16) as bench:
        await asyncio.gather(*(text_of(bench.engine, ask(f"prompt {n}", tenant=f"t{n % 2}")) for n in range(4)))
    assert bench.value("decode_tokens_total") == 4 * 31
    assert bench.value("sequences_total", reason="stop") == 4
    assert bench.value("preemptions_total") > 0
    assert bench.value("prefill_tokens_total") > 4 * 8
    assert bench.value("prefix_lookup_tokens_total") >= bench.value("prefix_hit_tokens_total") > 0
    assert bench.value("tenant_tokens_total", tenant="t0", kind="input") == 16
    assert bench.value("tenant_tokens_total", tenant="t1", kind="output") == 62
    assert sum(bench.value("kv_blocks", state=state) for state in ("used", "cached", "free")) == 16
    kinds = [bench.value("step_seconds_count", kind=kind) for kind in ("prefill", "decode", "mixed")]
    assert sum(kinds) == bench.value("batch_rows_count") == len(runner.steps)
    for name in ("queue_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds"):
        assert bench.value(f"{name}_count") == 4


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
