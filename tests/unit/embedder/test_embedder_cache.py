"""What is remembered of short texts: bounded, by tenant, never instead of a refusal."""

import asyncio
from array import array
from collections.abc import AsyncIterator

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.embedder.domain import NO_TIME, Computed, Limits, Timings, Vector
from services.embedder.engine import Engine
from services.embedder.engine.cache import MAX_CHARACTERS, QueryCache
from services.embedder.metrics import EmbedderMetrics
from tandem.errors import InvalidInput
from tests.fakes.embedder import FakeEncoder

LIMITS = Limits(max_batch_tokens=64, max_batch_texts=8, max_queue_tokens=512, max_stream_texts=4, cache_texts=3)


def computed(value: float) -> Computed[Vector]:
    return Computed(array("f", [value]), 3, truncated=False, timings=Timings(infer=1.0))


def test_the_least_recently_used_leaves_first() -> None:
    cache: QueryCache[Vector] = QueryCache(max_texts=2)
    cache.put("t", "a", computed(1))
    cache.put("t", "b", computed(2))
    assert cache.get("t", "a") is not None
    cache.put("t", "c", computed(3))
    assert cache.get("t", "b") is None
    assert cache.get("t", "a") is not None
    assert len(cache) == 2


def test_a_known_text_has_cost_no_time() -> None:
    cache: QueryCache[Vector] = QueryCache(max_texts=2)
    cache.put("t", "a", computed(1))
    found = cache.get("t", "a")
    assert found is not None
    assert found.timings == NO_TIME
    assert list(found.output) == [1]


def test_one_tenants_texts_are_not_anothers() -> None:
    cache: QueryCache[Vector] = QueryCache(max_texts=9)
    cache.put("ab", "c", computed(1))
    assert cache.get("a", "bc") is None
    assert cache.get("", "abc") is None


def test_long_texts_are_not_kept_and_a_size_of_zero_keeps_nothing() -> None:
    cache: QueryCache[Vector] = QueryCache(max_texts=9)
    cache.put("t", "x" * (MAX_CHARACTERS + 1), computed(1))
    assert len(cache) == 0
    cache.put("t", "x" * MAX_CHARACTERS, computed(1))
    cache.put("t", "\ud800", computed(1))
    assert len(cache) == 2
    off: QueryCache[Vector] = QueryCache(max_texts=0)
    off.put("t", "a", computed(1))
    assert off.get("t", "a") is None


@pytest.fixture
async def running() -> AsyncIterator[tuple[Engine, FakeEncoder, CollectorRegistry]]:
    encoder, registry = FakeEncoder(), CollectorRegistry()
    engine = Engine(lambda: encoder, limits=LIMITS, metrics=EmbedderMetrics(registry), tracer=NoOpTracer())
    await engine.start()
    encoder.batches.clear()
    yield engine, encoder, registry
    encoder.gate.set()
    await engine.stop()


Running = tuple[Engine, FakeEncoder, CollectorRegistry]


async def test_a_text_asked_for_again_is_not_computed_again(running: Running) -> None:
    engine, encoder, registry = running
    (first,) = await engine.embed(["word"], scope="t")
    again, other = await engine.embed(["word", "other"], scope="t")
    assert again.output == first.output
    assert again.timings == NO_TIME
    assert other.timings.infer > 0
    assert [len(batch) for batch in encoder.batches] == [1, 1]
    assert registry.get_sample_value("tandem_embedder_cache_hits_total") == 1
    await engine.embed(["word"], scope="another tenant")
    assert len(encoder.batches) == 3


async def test_a_known_text_that_was_cut_is_refused_when_it_may_not_be(running: Running) -> None:
    engine, _, _ = running
    await engine.embed(["short", "w " * 99], scope="t")
    with pytest.raises(InvalidInput) as refusal:
        await engine.embed(["short", "w " * 99], scope="t", truncate=False)
    assert [violation.field for violation in refusal.value.violations] == ["texts[1]"]


async def test_equal_texts_of_one_batch_are_computed_once(running: Running) -> None:
    engine, encoder, registry = running
    encoder.close_gate()
    blocker = asyncio.create_task(engine.embed(["blocker"]))
    await asyncio.to_thread(encoder.running.wait, 30)
    calls = [asyncio.create_task(engine.embed(["same", "same", f"own {number}"])) for number in range(2)]
    for _ in range(30_000):
        if registry.get_sample_value("tandem_embedder_queue_texts") == 6:
            break
        await asyncio.sleep(0.001)
    encoder.gate.set()
    await blocker
    (one, two, mine), (three, _, yours) = await asyncio.gather(*calls)
    assert [len(batch) for batch in encoder.batches] == [1, 3]
    assert one.output == two.output == three.output
    assert mine.output != yours.output
