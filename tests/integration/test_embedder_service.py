"""The embedder over gRPC: real weights for what it answers, a fake model for what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from services.embedder.__main__ import build
from services.embedder.config import EmbedderConfig
from services.embedder.domain import Limits
from services.embedder.engine import Engine
from services.embedder.metrics import EmbedderMetrics
from services.embedder.servicer import SERVICE_NAME, EmbedderServicer
from tandem.errors import InvalidInput, Overloaded, Unauthenticated
from tandem.rpc.channel import connect
from tandem.rpc.server import App, Service, serving
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc
from tests.fakes.embedder import FakeEncoder

CONFIG = EmbedderConfig(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", threads=1)
PRINCIPALS = {
    role: Principal(subject=role, tenant="halden", roles=frozenset({role})) for role in ("user", "editor", "auditor")
}


class ByRole:
    """Takes the name of a role for the token of someone who has it."""

    def resolve(self, token: str) -> Principal:
        if token not in PRINCIPALS:
            raise Unauthenticated("unknown token")
        return PRINCIPALS[token]


@dataclass
class Running:
    address: str
    telemetry: Telemetry
    stub: "pb_grpc.EmbedderServiceAsyncStub"

    def metric(self, name: str) -> float:
        return self.telemetry.registry.get_sample_value(name) or 0.0

    async def until_empty(self) -> None:
        await self.until_waiting(0)

    async def until_waiting(self, texts: int) -> None:
        for _ in range(6_000):
            if self.metric("tandem_embedder_queue_texts") == texts:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"there were never {texts} texts in the queue")


@asynccontextmanager
async def running(app: App, telemetry: Telemetry) -> AsyncIterator[Running]:
    async with serving(app, CONFIG, telemetry, authenticator=ByRole()) as address:
        async with connect(address, token="user") as channel:
            yield Running(address, telemetry, pb_grpc.EmbedderServiceStub(channel))
    telemetry.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder() -> AsyncIterator[Running]:
    telemetry = Telemetry(service="embedder")
    async with running(await build(CONFIG, telemetry), telemetry) as started:
        yield started


@asynccontextmanager
async def with_fake_model(encoder: FakeEncoder) -> AsyncIterator[Running]:
    telemetry = Telemetry(service="embedder")
    limits = Limits(max_batch_tokens=64, max_batch_texts=8, max_queue_tokens=64, max_stream_texts=4)
    metrics = EmbedderMetrics(telemetry.registry)
    engine = Engine(lambda: encoder, limits=limits, metrics=metrics, tracer=telemetry.tracer)
    servicer = EmbedderServicer(engine)
    service = Service(
        name=SERVICE_NAME, add=lambda server: pb_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
    )
    async with running(App(services=[service], start=engine.start, stop=engine.stop), telemetry) as started:
        try:
            yield started
        finally:
            encoder.gate.set()


async def embed(embedder: Running, *texts: str) -> list[list[float]]:
    response = await embedder.stub.Embed(pb.EmbedRequest(texts=texts))
    return [list(embedding.values) for embedding in response.embeddings]


async def requests(texts: Sequence[str]) -> AsyncIterator[pb.StreamEmbedRequest]:
    for text in texts:
        yield pb.StreamEmbedRequest(text=text)


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def bad_request(error: grpc.aio.AioRpcError) -> list[str]:
    failure = from_rpc_error(error)
    assert isinstance(failure, InvalidInput)
    return [violation.field for violation in failure.violations]


on_module_loop = pytest.mark.asyncio(loop_scope="module")


@on_module_loop
async def test_embed_answers_with_unit_vectors_and_their_lineage(embedder: Running) -> None:
    response = await embedder.stub.Embed(pb.EmbedRequest(texts=["one text", "another text"]))
    assert [len(embedding.values) for embedding in response.embeddings] == [384, 384]
    assert all(abs(dot(row.values, row.values) - 1) < 1e-5 for row in response.embeddings)
    assert response.lineage.model == "all-MiniLM-L6-v2"
    assert len(response.lineage.model_sha256) == 64
    assert response.usage.input_tokens == 8
    assert [timing.stage for timing in response.timings] == ["queue", "tokenize", "infer"]
    assert response.timings[2].duration.ToNanoseconds() > 0


@on_module_loop
async def test_like_meanings_are_near(embedder: Running) -> None:
    question, answer, other = await embed(
        embedder,
        "How many days do I have to report water damage?",
        "Damage by water must be reported within fourteen days.",
        "The cat sleeps on the warm windowsill.",
    )
    assert dot(question, answer) > 0.5 > dot(question, other) + 0.2


@on_module_loop
async def test_a_long_text_is_cut_or_refused(embedder: Running) -> None:
    texts = ["short", "word " * 400]
    response = await embedder.stub.Embed(pb.EmbedRequest(texts=texts))
    assert [embedding.truncated for embedding in response.embeddings] == [False, True]
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await embedder.stub.Embed(pb.EmbedRequest(texts=texts, truncate=False))
    assert bad_request(refusal.value) == ["texts[1]"]


@on_module_loop
async def test_callers_at_once_get_the_vectors_that_they_get_alone(embedder: Running) -> None:
    calls = [[f"{'word ' * (3 * caller + index)} number {caller}" for index in range(3)] for caller in range(8)]
    alone = [await embed(embedder, *texts) for texts in calls]
    batches = embedder.metric("tandem_embedder_batch_texts_count")
    together = await asyncio.gather(*(embed(embedder, *texts) for texts in calls))
    assert embedder.metric("tandem_embedder_batch_texts_count") - batches < 24
    for left, right in zip(alone, together, strict=True):
        for one, other in zip(left, right, strict=True):
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5


@on_module_loop
async def test_a_stream_answers_in_order_and_like_embed(embedder: Running) -> None:
    texts = [f"{'word ' * (index * 7 % 40)} number {index}" for index in range(70)]
    events = [event async for event in embedder.stub.StreamEmbed(requests(texts))]
    assert [event.WhichOneof("event") for event in events] == ["started", *["embedding"] * 70, "finished"]
    assert events[0].started.dimension == 384
    assert events[-1].finished.num_embeddings == 70
    for text, event in list(zip(texts, events[1:], strict=False))[::23]:
        assert dot((await embed(embedder, text))[0], event.embedding.values) > 0.99999


@on_module_loop
async def test_a_stream_with_a_faulty_text_fails_after_what_came_before(embedder: Running) -> None:
    events = []
    call = embedder.stub.StreamEmbed(requests(["good", ""]))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        events.extend([event async for event in call])
    assert bad_request(refusal.value) == ["text"]


@on_module_loop
async def test_describes_the_model(embedder: Running) -> None:
    response = await embedder.stub.GetEmbeddingModel(pb.GetEmbeddingModelRequest())
    assert (response.dimension, response.max_tokens) == (384, 256)


@on_module_loop
@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.EmbedRequest(), "texts"),
        (pb.EmbedRequest(texts=["x"] * 513), "texts"),
        (pb.EmbedRequest(texts=["good", ""]), "texts[1]"),
        (pb.EmbedRequest(texts=["x" * 32_769]), "texts[0]"),
    ],
    ids=["none", "too many", "empty", "too long"],
)
async def test_a_faulty_request_is_refused_by_field(embedder: Running, request_: pb.EmbedRequest, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await embedder.stub.Embed(request_)
    assert bad_request(refusal.value) == [field]


@on_module_loop
@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\xc3\x28", b"\x0a\x03\xed\xa0\x80"])
async def test_bytes_that_are_no_request_are_the_callers_fault(embedder: Running, raw: bytes) -> None:
    async with connect(embedder.address, token="user") as channel:
        method = channel.unary_unary(f"/{SERVICE_NAME}/Embed")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await method(raw)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@on_module_loop
@pytest.mark.parametrize("text", ["\x00", " \n\t", "a\x00b", "\u202e", "🏳️‍🌈" * 300, "x" * 32_768])
async def test_odd_text_has_a_vector(embedder: Running, text: str) -> None:
    (vector,) = await embed(embedder, text)
    assert abs(dot(vector, vector) - 1) < 1e-5


@on_module_loop
async def test_only_those_who_may_are_served(embedder: Running) -> None:
    for token, code in (
        (None, grpc.StatusCode.UNAUTHENTICATED),
        ("nobody", grpc.StatusCode.UNAUTHENTICATED),
        ("auditor", grpc.StatusCode.PERMISSION_DENIED),
    ):
        async with connect(embedder.address, token=token) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await pb_grpc.EmbedderServiceStub(channel).Embed(pb.EmbedRequest(texts=["x"]))
            assert refusal.value.code() == code


@on_module_loop
async def test_a_cancelled_call_frees_the_real_model(embedder: Running) -> None:
    call = embedder.stub.Embed(pb.EmbedRequest(texts=["word " * 200] * 100))
    sent = asyncio.ensure_future(call)
    for _ in range(6_000):
        if embedder.metric("tandem_embedder_queue_texts") > 0:
            break
        await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sent
    await embedder.until_empty()
    assert embedder.metric("tandem_embedder_queue_tokens") == 0
    assert len(await embed(embedder, "after")) == 1


async def test_a_cancelled_stream_and_a_passed_deadline_leave_the_queue() -> None:
    encoder = FakeEncoder()
    async with with_fake_model(encoder) as embedder:
        encoder.close_gate()
        blocker = asyncio.ensure_future(embedder.stub.Embed(pb.EmbedRequest(texts=["blocker"])))
        await asyncio.to_thread(encoder.running.wait, 30)
        stream = embedder.stub.StreamEmbed(requests(["w"] * 100))
        assert (await stream.read()).WhichOneof("event") == "started"
        await embedder.until_waiting(4)
        stream.cancel()
        await embedder.until_empty()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await embedder.stub.Embed(pb.EmbedRequest(texts=["late"]), timeout=0.2)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await embedder.until_empty()
        encoder.gate.set()
        await blocker
        assert [len(batch) for batch in encoder.batches] == [1]


async def test_a_full_queue_refuses_with_retry_info() -> None:
    encoder = FakeEncoder()
    async with with_fake_model(encoder) as embedder:
        encoder.close_gate()
        first = asyncio.ensure_future(embedder.stub.Embed(pb.EmbedRequest(texts=["blocker"])))
        await asyncio.to_thread(encoder.running.wait, 30)
        second = asyncio.ensure_future(embedder.stub.Embed(pb.EmbedRequest(texts=["word " * 16] * 4)))
        await embedder.until_waiting(4)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await embedder.stub.Embed(pb.EmbedRequest(texts=["one more"]))
        failure = from_rpc_error(refusal.value)
        assert isinstance(failure, Overloaded)
        assert failure.retry_after_s > 0
        encoder.gate.set()
        await asyncio.gather(first, second)


async def test_a_crash_of_the_model_is_internal_bland_and_passes() -> None:
    async with with_fake_model(FakeEncoder()) as embedder:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await embedder.stub.Embed(pb.EmbedRequest(texts=["crash"]))
        assert failure.value.code() == grpc.StatusCode.INTERNAL
        assert failure.value.details() == "internal error"
        stream = embedder.stub.StreamEmbed(requests(["crash"] * 9))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            assert [event async for event in stream] == []
        assert failure.value.code() == grpc.StatusCode.INTERNAL
        assert len(await embed(embedder, "after")) == 1
        assert embedder.metric("tandem_embedder_failed_batches_total") >= 2


async def test_a_stream_far_larger_than_the_queue_passes_through() -> None:
    encoder = FakeEncoder()
    async with with_fake_model(encoder) as embedder:
        stream = embedder.stub.StreamEmbed(requests([f"text {number}" for number in range(500)]))
        count = 0
        async for event in stream:
            count += event.HasField("embedding")
        assert count == 500
        assert embedder.metric("tandem_embedder_queue_tokens") == 0
