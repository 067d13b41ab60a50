"""The engine on a scripted model: batching, leaving, limits, failures."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.generator.domain import (
    Delta,
    Finished,
    FinishReason,
    GenerateInput,
    Limits,
    ModelInfo,
    Row,
    Sampling,
    Started,
)
from services.generator.engine import Engine
from services.generator.metrics import SPANS, GeneratorMetrics
from tandem.errors import DeadlineExceeded, Internal, InvalidInput, Overloaded, TandemError, Unavailable
from tests.fakes.generator import END, ByteTokenizer, ScriptedRunner

MODEL = ModelInfo(name="fake", sha256="0" * 64, max_context_tokens=100, precision="float32")


class Bench:
    def __init__(self, runner: ScriptedRunner, limits: Limits) -> None:
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.runner = runner
        self.engine = Engine(
            runner=runner,
            tokenizer=ByteTokenizer(),
            model=MODEL,
            limits=limits,
            metrics=GeneratorMetrics(self.registry),
            tracer=provider.get_tracer("test"),
        )

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


@asynccontextmanager
async def running(runner: ScriptedRunner, **limits: int) -> AsyncIterator[Bench]:
    bench = Bench(runner, Limits(**limits))
    await bench.engine.start()
    try:
        yield bench
    finally:
        runner.allow(10_000)
        await bench.engine.stop()


def ask(prompt: str = "hi", *, deadline: float | None = None, **sampling: object) -> GenerateInput:
    return GenerateInput(prompt=prompt, sampling=Sampling(**sampling), deadline=deadline)  # type: ignore[arg-type]


async def text_of(engine: Engine, request: GenerateInput) -> tuple[str, Finished]:
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
        if isinstance(event, Finished):
            return text + event.tail, event
    raise AssertionError("no last event")


async def test_started_comes_first_and_finished_last_with_a_delta_for_each_token() -> None:
    async with running(ScriptedRunner(lambda row: "né")) as bench:
        events = [event async for event in bench.engine.generate(ask("hello"))]
    assert isinstance(events[0], Started)
    assert events[0].input_tokens == 5
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [delta.text for delta in deltas] == ["n", "", "é", ""]
    assert [delta.token.token_id for delta in deltas] == [*"né".encode(), END]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.output_tokens, finished.mean_logprob) == (FinishReason.STOP, 4, -0.5)


async def test_max_tokens_ends_a_sequence_and_sends_what_was_held_for_a_stop_string() -> None:
    async with running(ScriptedRunner(lambda row: "abcabc")) as bench:
        text, finished = await text_of(bench.engine, ask(max_tokens=4, stop=("abd",)))
    assert (text, finished.reason, finished.output_tokens) == ("abca", FinishReason.LENGTH, 4)


async def test_a_stop_string_ends_a_sequence() -> None:
    async with running(ScriptedRunner(lambda row: "one. two")) as bench:
        text, finished = await text_of(bench.engine, ask(stop=(". ",)))
    assert bench.runner.held == set()
    assert (text, finished.reason) == ("one", FinishReason.STOP)


async def test_callers_share_batches_and_get_their_own_text() -> None:
    runner = ScriptedRunner(lambda row: bytes(row.prompt).decode().upper())
    async with running(runner, max_running=8) as bench:
        prompts = [f"prompt number {n}" for n in range(20)]
        answers = await asyncio.gather(*(text_of(bench.engine, ask(prompt)) for prompt in prompts))
    assert [text for text, _ in answers] == [prompt.upper() for prompt in prompts]
    assert max(len(ids) for kind, ids in runner.batches) == 8
    assert runner.held == set()
    assert bench.value("sequences_total", reason="stop") == 20
    assert bench.value("running_sequences") == bench.value("waiting_sequences") == 0
    assert bench.value("running_tokens") == 0


async def test_a_late_sequence_joins_between_two_steps() -> None:
    runner = ScriptedRunner(lambda row: "abcdef", gated=True)
    async with running(runner) as bench:
        first = asyncio.create_task(text_of(bench.engine, ask("first")))
        await bench.entered()
        second = asyncio.create_task(text_of(bench.engine, ask("second")))
        await bench.waiting(1)
        runner.allow(1000)
        await asyncio.gather(first, second)
    kinds = [kind for kind, _ in runner.batches]
    assert kinds.count("prefill") == 2
    assert kinds[-1] == "step"
    assert any(len(ids) == 2 for kind, ids in runner.batches if kind == "step")


async def test_a_cancelled_caller_frees_its_slot_within_one_step() -> None:
    runner = ScriptedRunner(lambda row: "x" * 500, gated=True)
    async with running(runner) as bench:
        caller = asyncio.create_task(text_of(bench.engine, ask(max_tokens=90)))
        await bench.entered()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        runner.allow(1)
        other = asyncio.create_task(text_of(bench.engine, ask("other", max_tokens=1)))
        runner.allow(2)
        await other
        assert runner.removed[0] == 0
        assert [ids for kind, ids in runner.batches if kind == "step" and 0 in ids] == []
    assert bench.value("sequences_total", reason="cancelled") == 1


async def test_a_waiting_caller_who_leaves_is_never_read_in() -> None:
    runner = ScriptedRunner(lambda row: "x" * 20, gated=True)
    async with running(runner, max_running=1) as bench:
        first = asyncio.create_task(text_of(bench.engine, ask("first")))
        await bench.entered()
        second = asyncio.create_task(text_of(bench.engine, ask("second")))
        await bench.waiting(1)
        second.cancel()
        runner.allow(1000)
        await first
    assert [ids for kind, ids in runner.batches if kind == "prefill"] == [(0,)]


async def test_a_deadline_ends_a_sequence_between_steps() -> None:
    runner = ScriptedRunner(lambda row: "x" * 50, gated=True)
    async with running(runner) as bench:
        caller = asyncio.create_task(text_of(bench.engine, ask(deadline=time.monotonic() + 0.02)))
        await bench.entered()
        await asyncio.sleep(0.03)
        runner.allow(1)
        with pytest.raises(DeadlineExceeded):
            await caller
    assert bench.value("sequences_total", reason="deadline") == 1


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    runner = ScriptedRunner(lambda row: "x" * 20, gated=True)
    async with running(runner, max_running=1, max_waiting=2) as bench:
        tasks = [asyncio.create_task(text_of(bench.engine, ask(str(n)))) for n in range(1)]
        await bench.entered()
        tasks += [asyncio.create_task(text_of(bench.engine, ask(str(n)))) for n in range(2)]
        await bench.waiting(2)
        with pytest.raises(Overloaded) as refused:
            await text_of(bench.engine, ask("too many"))
        assert 0 < refused.value.retry_after_s <= 60
        runner.allow(1000)
        await asyncio.gather(*tasks)
    assert bench.value("sequences_refused_total") == 1


async def test_a_prompt_beyond_the_context_is_refused_with_the_limit() -> None:
    async with running(ScriptedRunner()) as bench:
        with pytest.raises(InvalidInput, match="120 tokens; with its answer at most 100 fit"):
            await text_of(bench.engine, ask("x" * 120))
        _, finished = await text_of(bench.engine, ask("x" * 99))
        assert (finished.reason, finished.output_tokens) == (FinishReason.LENGTH, 1)


async def test_running_tokens_are_bounded() -> None:
    runner = ScriptedRunner(lambda row: "x" * 100)
    async with running(runner, max_running_tokens=50) as bench:
        await asyncio.gather(*(text_of(bench.engine, ask("abcde", max_tokens=15)) for _ in range(5)))
    assert max(len(ids) for _, ids in runner.batches) == 2


async def test_prompts_are_read_in_groups_of_bounded_size() -> None:
    runner = ScriptedRunner(lambda row: "x", gated=True)
    async with running(runner, max_prefill_tokens=20) as bench:
        first = asyncio.create_task(text_of(bench.engine, ask("first")))
        await bench.entered()
        prompts = ["a" * 8, "b" * 8, "c" * 30, "d"]
        rest = [asyncio.create_task(text_of(bench.engine, ask(prompt))) for prompt in prompts]
        await bench.waiting(4)
        runner.allow(1000)
        await asyncio.gather(first, *rest)
    groups = [ids for kind, ids in runner.batches if kind == "prefill"]
    assert groups == [(0,), (1, 2), (3,), (4,)]


async def test_a_failing_step_fails_its_sequences_and_not_the_service() -> None:
    runner = ScriptedRunner(lambda row: "fine")
    async with running(runner) as bench:
        runner.fail_next = True
        with pytest.raises(Internal):
            await text_of(bench.engine, ask())
        text, _ = await text_of(bench.engine, ask())
    assert text == "fine"
    assert bench.value("sequences_total", reason="failed") == 1
    assert runner.held == set()


async def test_stopping_fails_what_is_left_and_refuses_what_comes() -> None:
    runner = ScriptedRunner(lambda row: "x" * 50, gated=True)
    async with running(runner, max_running=1) as bench:
        tasks = [asyncio.create_task(text_of(bench.engine, ask(str(n)))) for n in range(2)]
        await bench.entered()
        runner.allow(1)
        stopping = asyncio.create_task(bench.engine.stop())
        runner.allow(1000)
        await stopping
        ended: list[TandemError | BaseException | object] = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in ended)
        with pytest.raises(Unavailable):
            await text_of(bench.engine, ask())


@pytest.mark.parametrize("order", [lambda n: n, lambda n: -n])
async def test_first_come_is_first_served(order: Callable[[int], int]) -> None:
    finished: list[int] = []
    runner = ScriptedRunner(lambda row: "xy")

    async def one(engine: Engine, number: int) -> None:
        await text_of(engine, ask(f"{number}"))
        finished.append(number)

    async with running(runner, max_running=1) as bench:
        numbers = sorted(range(6), key=order)
        await asyncio.gather(*(one(bench.engine, number) for number in numbers))
    assert finished == numbers


async def test_the_runner_sees_the_sampling_and_the_adapter_key() -> None:
    runner = ScriptedRunner()
    async with running(runner) as bench:
        await text_of(bench.engine, ask(temperature=0.7, seed=3))
    assert runner.rows[0] == Row(
        id=0, prompt=tuple(b"hi"), sampling=Sampling(temperature=0.7, seed=3), adapter_key=None
    )


async def test_a_call_opens_the_declared_spans_and_puts_no_text_in_them() -> None:
    async with running(ScriptedRunner(lambda row: "a secret")) as bench:
        await text_of(bench.engine, ask("another secret"))
    spans = bench.spans.get_finished_spans()
    assert {span.name for span in spans} == set(SPANS)
    sequence = next(span for span in spans if span.name == "generator.sequence")
    assert sequence.attributes is not None
    assert sequence.attributes["gen_ai.usage.output_tokens"] == 9
    assert "secret" not in str([span.to_json() for span in spans])
