"""The servicer: who may call, what it refuses and names, what it sends back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from services.embedder.domain import Limits
from services.embedder.engine import Engine
from services.embedder.metrics import EmbedderMetrics
from services.embedder.servicer import MAX_CHARACTERS, MAX_TEXTS, SERVICE_NAME, EmbedderServicer
from tandem.errors import InvalidInput, PermissionDenied, Unauthenticated
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import embedder_service_pb2 as pb
from tests.fakes.embedder import FAKE_MODEL, FakeEncoder, fake_vector

CONTEXT: Any = None
LIMITS = Limits(max_batch_tokens=64, max_batch_texts=8, max_queue_tokens=4096, max_stream_texts=4)


def someone(*roles: str) -> Principal:
    return Principal(subject="lena", tenant="halden", roles=frozenset(roles))


@pytest.fixture
async def servicer() -> AsyncIterator[EmbedderServicer]:
    metrics, tracer = EmbedderMetrics(CollectorRegistry()), TracerProvider(shutdown_on_exit=False).get_tracer("test")
    engine = Engine(FakeEncoder, limits=LIMITS, metrics=metrics, tracer=tracer)
    await engine.start()
    yield EmbedderServicer(engine)
    await engine.stop()


async def embed(servicer: EmbedderServicer, request: pb.EmbedRequest, *roles: str) -> pb.EmbedResponse:
    with call.bind(principal=someone(*(roles or ("user",)))):
        return await servicer.Embed(request, CONTEXT)


async def stream(servicer: EmbedderServicer, *texts: str) -> list[pb.StreamEmbedResponse]:
    async def requests() -> AsyncIterator[pb.StreamEmbedRequest]:
        for text in texts:
            yield pb.StreamEmbedRequest(text=text)

    with call.bind(principal=someone("user")):
        return [event async for event in servicer.StreamEmbed(requests(), CONTEXT)]


def test_serves_the_contract() -> None:
    assert SERVICE_NAME == "tandem.v1.EmbedderService"


async def test_embed_answers_with_vectors_lineage_usage_and_timings(servicer: EmbedderServicer) -> None:
    response = await embed(servicer, pb.EmbedRequest(texts=["one", "one two", "word " * 99]))
    first = fake_vector(FakeEncoder().tokenize(["one"])[0].ids, FAKE_MODEL.dimension)
    assert list(response.embeddings[0].values) == list(first)
    assert [embedding.truncated for embedding in response.embeddings] == [False, False, True]
    assert response.usage.input_tokens == 3 + 4 + FAKE_MODEL.max_tokens
    assert (response.lineage.model, response.lineage.model_sha256) == (FAKE_MODEL.name, FAKE_MODEL.sha256)
    assert [timing.stage for timing in response.timings] == ["queue", "tokenize", "infer"]


@pytest.mark.parametrize(
    ("texts", "field"),
    [
        ([], "texts"),
        (["word"] * (MAX_TEXTS + 1), "texts"),
        (["word", "", "word"], "texts[1]"),
        (["word", "word", "x" * (MAX_CHARACTERS + 1)], "texts[2]"),
    ],
    ids=["none", "too many", "empty", "too long"],
)
async def test_embed_names_the_faulty_field(servicer: EmbedderServicer, texts: list[str], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await embed(servicer, pb.EmbedRequest(texts=texts))
    assert [violation.field for violation in refusal.value.violations] == [field]


async def test_embed_names_every_faulty_field(servicer: EmbedderServicer) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await embed(servicer, pb.EmbedRequest(texts=["", "word", ""]))
    assert [violation.field for violation in refusal.value.violations] == ["texts[0]", "texts[2]"]


async def test_embed_accepts_its_limits(servicer: EmbedderServicer) -> None:
    response = await embed(servicer, pb.EmbedRequest(texts=["x" * MAX_CHARACTERS] + ["word"] * (MAX_TEXTS - 1)))
    assert len(response.embeddings) == MAX_TEXTS


async def test_embed_refuses_to_cut_when_told_not_to(servicer: EmbedderServicer) -> None:
    with pytest.raises(InvalidInput, match="too long for the model"):
        await embed(servicer, pb.EmbedRequest(texts=["word " * 99], truncate=False))


@pytest.mark.parametrize("role", ["user", "editor", "service"])
async def test_users_editors_and_services_may_embed(servicer: EmbedderServicer, role: str) -> None:
    assert (await embed(servicer, pb.EmbedRequest(texts=["word"]), role)).embeddings


async def test_others_may_not(servicer: EmbedderServicer) -> None:
    with pytest.raises(PermissionDenied):
        await embed(servicer, pb.EmbedRequest(texts=["word"]), "auditor")
    with pytest.raises(Unauthenticated):
        await servicer.Embed(pb.EmbedRequest(texts=["word"]), CONTEXT)


async def test_stream_starts_embeds_and_finishes_once(servicer: EmbedderServicer) -> None:
    events = await stream(servicer, "one", "word " * 99, "one")
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", "embedding", "embedding", "embedding", "finished"]
    assert events[0].started.dimension == FAKE_MODEL.dimension
    assert events[0].started.lineage.model_sha256 == FAKE_MODEL.sha256
    assert events[1].embedding == events[3].embedding
    assert events[2].embedding.truncated
    assert events[4].finished.num_embeddings == 3
    assert events[4].finished.usage.input_tokens == 3 + FAKE_MODEL.max_tokens + 3


async def test_an_empty_stream_finishes(servicer: EmbedderServicer) -> None:
    started, finished = await stream(servicer)
    assert started.HasField("started")
    assert finished.finished.num_embeddings == 0


@pytest.mark.parametrize("text", ["", "x" * (MAX_CHARACTERS + 1)], ids=["empty", "too long"])
async def test_stream_refuses_a_faulty_text(servicer: EmbedderServicer, text: str) -> None:
    with pytest.raises(InvalidInput, match="text 2 of the stream") as refusal:
        await stream(servicer, "word", text)
    assert [violation.field for violation in refusal.value.violations] == ["text"]


async def test_describes_the_model(servicer: EmbedderServicer) -> None:
    with call.bind(principal=someone("user")):
        response = await servicer.GetEmbeddingModel(pb.GetEmbeddingModelRequest(), CONTEXT)
    assert (response.dimension, response.max_tokens) == (FAKE_MODEL.dimension, FAKE_MODEL.max_tokens)
    assert (response.precision, response.backend) == (FAKE_MODEL.precision, FAKE_MODEL.backend)
