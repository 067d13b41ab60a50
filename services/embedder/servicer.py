"""Speaks tandem.v1.EmbedderService: checks, calls the engine, converts."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from services.embedder.domain import EmbeddedText, ModelInfo
from services.embedder.engine import Engine
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import common_pb2 as common
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EmbedderService"].full_name
MAX_TEXTS = 512
MAX_CHARACTERS = 32_768

# Editors have their documents embedded; services embed in their own name.
_ROLES = ("user", "editor", "service")
Context = grpc.aio.ServicerContext[Any, Any]


class EmbedderServicer(pb_grpc.EmbedderServiceServicer):
    """Serves one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Returns one vector for each text of the request."""
        call.require_role(*_ROLES)
        _check_texts(request.texts)
        truncate = request.truncate if request.HasField("truncate") else True
        embedded = await self._engine.embed(list(request.texts), truncate=truncate)
        return pb.EmbedResponse(
            embeddings=[_embedding(text) for text in embedded],
            lineage=_lineage(self._engine.model),
            usage=common.Usage(input_tokens=sum(text.num_tokens for text in embedded)),
            timings=_timings(embedded),
        )

    async def StreamEmbed(
        self, request_iterator: AsyncIterator[pb.StreamEmbedRequest], context: Context
    ) -> AsyncGenerator[pb.StreamEmbedResponse, None]:
        """Yields started, one embedding for each text of the stream, finished."""
        call.require_role(*_ROLES)
        model = self._engine.model
        yield pb.StreamEmbedResponse(started=pb.EmbedStarted(lineage=_lineage(model), dimension=model.dimension))
        num_embeddings = num_tokens = 0
        async with aclosing(self._engine.stream(_checked(request_iterator))) as embedded:
            async for text in embedded:
                num_embeddings += 1
                num_tokens += text.num_tokens
                yield pb.StreamEmbedResponse(embedding=_embedding(text))
        usage = common.Usage(input_tokens=num_tokens)
        yield pb.StreamEmbedResponse(finished=pb.EmbedFinished(num_embeddings=num_embeddings, usage=usage))

    async def GetEmbeddingModel(
        self, request: pb.GetEmbeddingModelRequest, context: Context
    ) -> pb.GetEmbeddingModelResponse:
        """Describes the model."""
        call.require_role(*_ROLES)
        model = self._engine.model
        return pb.GetEmbeddingModelResponse(
            lineage=_lineage(model), dimension=model.dimension, max_tokens=model.max_tokens
        )


def _check_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise InvalidInput.of("texts", "is empty; at least one text is needed")
    if len(texts) > MAX_TEXTS:
        raise InvalidInput.of("texts", f"has {len(texts)} items; at most {MAX_TEXTS} fit one request")
    faults = [(f"texts[{index}]", fault) for index, text in enumerate(texts) if (fault := _fault(text))]
    if faults:
        field, fault = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidInput(f"{field} {fault}{more}", [FieldViolation(*each) for each in faults])


async def _checked(requests: AsyncIterator[pb.StreamEmbedRequest]) -> AsyncIterator[str]:
    number = 0
    async for request in requests:
        number += 1
        if fault := _fault(request.text):
            raise InvalidInput(f"text {number} of the stream {fault}", [FieldViolation("text", fault)])
        yield request.text


def _fault(text: str) -> str:
    if not text:
        return "is empty"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters; at most {MAX_CHARACTERS} are read"
    return ""


def _embedding(text: EmbeddedText) -> pb.Embedding:
    return pb.Embedding(values=text.vector, truncated=text.truncated)


def _lineage(model: ModelInfo) -> common.Lineage:
    return common.Lineage(model=model.name, model_sha256=model.sha256)


def _timings(embedded: Sequence[EmbeddedText]) -> list[common.StageTiming]:
    slowest = max(embedded, key=lambda text: text.seconds)
    stages = (("queue", slowest.queue_seconds), ("infer", slowest.infer_seconds))
    return [common.StageTiming(stage=stage, duration=_duration(seconds)) for stage, seconds in stages]


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
