"""The engine on a fake model: shared batches, bounded queue, cancellation, failures, streams."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.embedder.domain import Limits
from services.embedder.engine import Engine
from services.embedder.metrics import SPANS, EmbedderMetrics
from tandem.errors import ConfigError, Internal, InvalidInput, Overloaded, Unavailable
from tests.fakes.embedder import FAKE_MODEL, FakeEncoder, fake_vector

LIMITS = Limits(max_batch_tokens=64, max_batch_texts=8, max_queue_tokens=256, max_stream_texts=4, cache_texts=100)


class Harness:
    """Owns an engine and what surrounds it."""

    def __init__(self, encoder: FakeEncoder, limits: Limits) -> None:
        self.encoder = encoder
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.engine = Engine(
            lambda: encoder,
            limits=limits,
            metrics=EmbedderMetrics(self.registry),
            tracer=provider.get_tracer("test"),
        )

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None, name
        return value

    async def busy(self) -> None:
        """Returns once a batch waits at the closed gate."""
        await asyncio.to_thread(self.encoder.running.wait, 30)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(30_000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise TimeoutError("the condition never held")


@asynccontextmanager
async def running(limits: Limits = LIMITS) -> AsyncIterator[Harness]:
    harness = Harness(FakeEncoder(), limits)
    await harness.engine.start()
    try:
        yield harness
    finally:
        harness.encoder.gate.set()
        await harness.engine.stop()


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with running() as started:
        yield started


async def feed(texts: Iterable[str]) -> AsyncIterator[str]:
    for text in texts:
        yield text


async def collect(engine: Engine, texts: AsyncIterator[str], into: list[list[float]]) -> None:
    async with aclosing(engine.stream(texts)) as stream:
        async for embedded in stream:
            into.append(list(embedded.output))


def vector_of(text: str) -> list[float]:
    return list(fake_vector(FakeEncoder().tokenize([text])[0].ids, FAKE_MODEL.dimension))


async def test_returns_the_vectors_in_the_order_of_the_texts(harness: Harness) -> None:
    texts = [" ".join(["word"] * (1 + index % 9)) + f" {index}" for index in range(20)]
    embedded = await harness.engine.embed(texts)
    assert [list(text.output) for text in embedded] == [vector_of(text) for text in texts]
    assert [text.num_tokens for text in embedded] == [len(text.split()) + 2 for text in texts]


words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=20).map(" ".join)


@settings(max_examples=25, deadline=None)
@given(calls=st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_vector_does_not_depend_on_who_else_is_asking(calls: list[list[str]]) -> None:
    async def check() -> None:
        async with running(replace(LIMITS, max_queue_tokens=10_000)) as harness:
            answers = await asyncio.gather(*(harness.engine.embed(texts) for texts in calls))
            for texts, embedded in zip(calls, answers, strict=True):
                assert [list(text.output) for text in embedded] == [vector_of(text) for text in texts]
            for batch in harness.encoder.batches[1:]:
                assert len(batch) * max(map(len, batch)) <= LIMITS.max_batch_tokens
            assert harness.metric("tandem_embedder_queue_tokens") == 0

    asyncio.run(check())


async def test_calls_that_wait_together_run_together(harness: Harness) -> None:
    harness.encoder.close_gate()
    first = asyncio.create_task(harness.engine.embed(["first"]))
    await harness.busy()
    others = [asyncio.create_task(harness.engine.embed([f"other {number}"])) for number in range(4)]
    await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 4)
    harness.encoder.gate.set()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in harness.encoder.batches] == [1, 4]


async def test_short_texts_wake_no_thread_to_be_tokenised(harness: Harness) -> None:
    harness.encoder.tokenizers.clear()
    await harness.engine.embed(["a short query"])
    await harness.engine.embed(["w " * 1000])
    assert [name.startswith("tokenize") for name in harness.encoder.tokenizers] == [False, True]


async def test_a_full_queue_refuses_with_the_time_to_wait(harness: Harness) -> None:
    harness.encoder.close_gate()
    first = asyncio.create_task(harness.engine.embed(["first"]))
    await harness.busy()
    second = asyncio.create_task(harness.engine.embed(["word " * 16] * 16))
    await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 16)
    with pytest.raises(Overloaded) as refusal:
        await harness.engine.embed(["one more"])
    assert refusal.value.retry_after_s > 0
    harness.encoder.gate.set()
    await asyncio.gather(first, second)
    assert len(await harness.engine.embed(["one more"])) == 1


async def test_a_call_larger_than_the_queue_enters_an_empty_one(harness: Harness) -> None:
    texts = ["word " * 16] * 30
    assert len(await harness.engine.embed(texts)) == 30


async def test_a_cancelled_call_leaves_the_queue(harness: Harness) -> None:
    harness.encoder.close_gate()
    first = asyncio.create_task(harness.engine.embed(["first"]))
    await harness.busy()
    leaving = asyncio.create_task(harness.engine.embed(["leaves", "leaves too"]))
    await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 2)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert harness.metric("tandem_embedder_queue_texts") == 0
    assert harness.metric("tandem_embedder_queue_tokens") == 0
    harness.encoder.gate.set()
    await first
    await harness.engine.embed(["last"])
    assert [len(batch) for batch in harness.encoder.batches] == [1, 1]


async def test_a_call_cancelled_during_its_batch_does_not_harm_its_batch_mates(harness: Harness) -> None:
    harness.encoder.close_gate()
    blocker = asyncio.create_task(harness.engine.embed(["blocker"]))
    await harness.busy()
    leaving = asyncio.create_task(harness.engine.embed(["leaves"]))
    staying = asyncio.create_task(harness.engine.embed(["stays"]))
    await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 2)
    harness.encoder.gate.set()
    await blocker
    leaving.cancel()
    assert list((await staying)[0].output) == vector_of("stays")


async def test_a_crash_of_the_model_fails_its_batch_only(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Internal):
        await harness.engine.embed(["crash", "mate"])
    assert harness.metric("tandem_embedder_failed_batches_total") == 1
    assert len(await harness.engine.embed(["after"])) == 1
    assert "inference failed" in caplog.text


async def test_a_long_text_is_cut_and_counted(harness: Harness) -> None:
    long, short = await harness.engine.embed(["word " * 100, "word"])
    assert (long.truncated, long.num_tokens) == (True, FAKE_MODEL.max_tokens)
    assert not short.truncated
    assert harness.metric("tandem_embedder_truncated_texts_total") == 1


async def test_a_long_text_is_refused_when_it_may_not_be_cut(harness: Harness) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await harness.engine.embed(["word", "word " * 100], truncate=False)
    assert [violation.field for violation in refusal.value.violations] == ["texts[1]"]
    assert harness.metric("tandem_embedder_queue_tokens") == 0


async def test_refuses_before_start_and_after_stop() -> None:
    harness = Harness(FakeEncoder(), LIMITS)
    with pytest.raises(Unavailable):
        await harness.engine.embed(["early"])
    await harness.engine.start()
    await harness.engine.stop()
    await harness.engine.stop()
    with pytest.raises(Unavailable):
        await harness.engine.embed(["late"])


async def test_is_ready_only_after_an_inference() -> None:
    harness = Harness(FakeEncoder(), LIMITS)
    harness.encoder.close_gate()
    starting = asyncio.create_task(harness.engine.start())
    await harness.busy()
    with pytest.raises(Unavailable):
        _ = harness.engine.model
    harness.encoder.gate.set()
    await starting
    assert harness.engine.model == FAKE_MODEL
    assert max(map(len, harness.encoder.batches[0])) == FAKE_MODEL.max_tokens
    await harness.engine.stop()


async def test_stop_refuses_what_still_waits() -> None:
    async with running() as harness:
        harness.encoder.close_gate()
        in_batch = asyncio.create_task(harness.engine.embed(["in batch"]))
        await harness.busy()
        waiting = asyncio.create_task(harness.engine.embed(["waiting"]))
        await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 1)
        stopping = asyncio.create_task(harness.engine.stop())
        for call in (in_batch, waiting):
            with pytest.raises(Unavailable):
                await call
        harness.encoder.gate.set()
        await stopping


async def test_does_not_start_with_batches_smaller_than_one_text() -> None:
    harness = Harness(FakeEncoder(), replace(LIMITS, max_batch_tokens=FAKE_MODEL.max_tokens - 1))
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        await harness.engine.start()
    await harness.engine.stop()


async def test_a_model_that_cannot_load_stops_the_start() -> None:
    def load() -> FakeEncoder:
        raise ConfigError("no such model")

    metrics, tracer = EmbedderMetrics(CollectorRegistry()), TracerProvider(shutdown_on_exit=False).get_tracer("test")
    engine = Engine(load, limits=LIMITS, metrics=metrics, tracer=tracer)
    with pytest.raises(ConfigError, match="no such model"):
        await engine.start()
    await engine.stop()


async def test_a_stream_keeps_the_order_and_needs_no_room_for_all(harness: Harness) -> None:
    texts = [" ".join(["word"] * (1 + index % 12)) for index in range(60)]
    vectors: list[list[float]] = []
    await collect(harness.engine, feed(texts), vectors)
    assert vectors == [vector_of(text) for text in texts]
    assert harness.metric("tandem_embedder_queue_tokens") == 0


async def test_a_slow_model_slows_the_stream_down(harness: Harness) -> None:
    taken = 0

    async def count() -> AsyncIterator[str]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield f"text {number}"

    harness.encoder.close_gate()
    async with aclosing(harness.engine.stream(count())) as stream:
        first = asyncio.ensure_future(anext(stream))
        await harness.busy()
        await harness.until(lambda: taken == LIMITS.max_stream_texts + 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert taken == LIMITS.max_stream_texts + 1
        harness.encoder.gate.set()
        await first
        assert len([embedded async for embedded in stream]) == 49


async def test_a_full_queue_slows_the_stream_down_and_leaves_room_for_calls() -> None:
    async with running(replace(LIMITS, max_queue_tokens=40, max_stream_texts=50)) as harness:
        harness.encoder.close_gate()
        blocker = asyncio.create_task(harness.engine.embed(["blocker"]))
        await harness.busy()

        async def consume() -> int:
            async with aclosing(harness.engine.stream(feed(["w"] * 30))) as stream:
                return len([embedded async for embedded in stream])

        streaming = asyncio.create_task(consume())
        await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 6)
        call = asyncio.create_task(harness.engine.embed(["room for me"]))
        await harness.until(lambda: harness.metric("tandem_embedder_queue_texts") == 7)
        assert harness.metric("tandem_embedder_queue_tokens") <= 40
        harness.encoder.gate.set()
        assert len(await call) == 1
        assert await streaming == 30
        await blocker


async def test_a_stream_that_is_left_early_takes_its_texts_along(harness: Harness) -> None:
    async with aclosing(harness.engine.stream(feed(["w"] * 100))) as stream:
        await anext(stream)
        harness.encoder.close_gate()
    assert harness.metric("tandem_embedder_queue_texts") == 0
    assert harness.metric("tandem_embedder_queue_tokens") == 0


async def test_a_failing_source_ends_the_stream_after_the_vectors_before_it(harness: Harness) -> None:
    async def source() -> AsyncIterator[str]:
        yield "good"
        raise InvalidInput.of("text", "is empty")

    vectors: list[list[float]] = []
    with pytest.raises(InvalidInput):
        await collect(harness.engine, source(), vectors)
    assert vectors == [vector_of("good")]


async def test_a_crash_of_the_model_ends_the_stream(harness: Harness) -> None:
    vectors: list[list[float]] = []
    with pytest.raises(Internal):
        await collect(harness.engine, feed(["crash"] * 20), vectors)
    assert vectors == []
    assert len(await harness.engine.embed(["after"])) == 1


async def test_every_declared_metric_and_span_is_emitted(harness: Harness) -> None:
    await harness.engine.embed(["a", "a b c", "word " * 100])
    await harness.engine.embed(["a"])
    with pytest.raises(Internal):
        await harness.engine.embed(["crash"])
    samples = {sample.name: sample.value for family in harness.registry.collect() for sample in family.samples}
    counted = {name for name, value in samples.items() if name.endswith(("_total", "_count")) and value > 0}
    declared = {name for name in samples if name.endswith(("_total", "_count"))}
    assert counted == declared
    assert {"tandem_embedder_queue_texts", "tandem_embedder_queue_tokens"} <= samples.keys()
    assert {span.name for span in harness.spans.get_finished_spans()} == SPANS.keys()
