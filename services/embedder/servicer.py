"""Speaks tandem.v1.EmbedderService: checks, calls the engine, converts."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from services.embedder.domain import NO_TIME, Computed, EmbeddedText, ModelInfo, Scores, probabilities
from services.embedder.engine import Engine
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import common_pb2 as common
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EmbedderService"].full_name
MAX_TEXTS = 512
MAX_CHARACTERS = 32_768
MAX_PAIRS = 256
MAX_QUERY_CHARACTERS = 8_192

# Editors have their documents embedded; services embed in their own name.
_ROLES = ("user", "editor", "service")
Context = grpc.aio.ServicerContext[Any, Any]
_Computed = EmbeddedText | Computed[Scores]


class EmbedderServicer(pb_grpc.EmbedderServiceServicer):
    """Serves one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Returns one vector for each text of the request."""
        caller = call.require_role(*_ROLES)
        _check_texts(request.texts, most=MAX_TEXTS)
        truncate = request.truncate if request.HasField("truncate") else True
        embedded = await self._engine.embed(list(request.texts), truncate=truncate, scope=caller.tenant)
        return pb.EmbedResponse(
            embeddings=[_embedding(text) for text in embedded],
            lineage=_lineage(self._engine.model),
            usage=_usage(embedded),
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

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Returns one score for each text of the request."""
        call.require_role(*_ROLES)
        if fault := _fault(request.query, most=MAX_QUERY_CHARACTERS):
            raise InvalidInput.of("query", fault)
        _check_texts(request.texts, most=MAX_PAIRS)
        scored = await self._engine.rerank(request.query, list(request.texts))
        return pb.RerankResponse(
            scores=[text.output[0] for text in scored],
            lineage=_lineage(self._engine.reranker),
            usage=_usage(scored),
            timings=_timings(scored),
        )

    async def ClassifyPairs(self, request: pb.ClassifyPairsRequest, context: Context) -> pb.ClassifyPairsResponse:
        """Returns the probability of each label for each pair of the request."""
        call.require_role(*_ROLES)
        _check_pairs(request.pairs)
        scored = await self._engine.classify([(pair.first, pair.second) for pair in request.pairs])
        model = self._engine.classifier
        return pb.ClassifyPairsResponse(
            labels=model.labels if model else (),
            classified=[
                pb.ClassifiedPair(probabilities=probabilities(pair.output), truncated=pair.truncated) for pair in scored
            ],
            lineage=_lineage(model),
            usage=_usage(scored),
            timings=_timings(scored),
        )

    async def GetEmbeddingModel(
        self, request: pb.GetEmbeddingModelRequest, context: Context
    ) -> pb.GetEmbeddingModelResponse:
        """Describes the model."""
        call.require_role(*_ROLES)
        model = self._engine.model
        return pb.GetEmbeddingModelResponse(
            lineage=_lineage(model),
            dimension=model.dimension,
            max_tokens=model.max_tokens,
            precision=model.precision,
            backend=model.backend,
            reranker=_lineage(self._engine.reranker),
            classifier=_lineage(self._engine.classifier),
        )


def _check_texts(texts: Sequence[str], *, most: int) -> None:
    _check_number("texts", len(texts), most=most)
    _refuse((f"texts[{index}]", fault) for index, text in enumerate(texts) if (fault := _fault(text)))


def _check_pairs(pairs: Sequence[pb.TextPair]) -> None:
    _check_number("pairs", len(pairs), most=MAX_PAIRS)
    _refuse(
        (f"pairs[{index}].{name}", fault)
        for index, pair in enumerate(pairs)
        for name, text in (("first", pair.first), ("second", pair.second))
        if (fault := _fault(text))
    )


def _check_number(field: str, number: int, *, most: int) -> None:
    if not number:
        raise InvalidInput.of(field, "is empty; at least one is needed")
    if number > most:
        raise InvalidInput.of(field, f"has {number} items; at most {most} fit one request")


def _refuse(found: Iterable[tuple[str, str]]) -> None:
    if faults := list(found):
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


def _fault(text: str, *, most: int = MAX_CHARACTERS) -> str:
    if not text:
        return "is empty"
    if len(text) > most:
        return f"has {len(text)} characters; at most {most} are read"
    return ""


def _embedding(text: EmbeddedText) -> pb.Embedding:
    return pb.Embedding(values=text.output, truncated=text.truncated)


def _lineage(model: ModelInfo | None) -> common.Lineage | None:
    return common.Lineage(model=model.name, model_sha256=model.sha256) if model else None


def _usage(computed: Sequence[_Computed]) -> common.Usage:
    return common.Usage(input_tokens=sum(each.num_tokens for each in computed))


def _timings(computed: Sequence[_Computed]) -> list[common.StageTiming]:
    slowest = max((each.timings for each in computed), key=lambda timings: timings.total, default=NO_TIME)
    stages = (("queue", slowest.queue), ("tokenize", slowest.tokenize), ("infer", slowest.infer))
    return [common.StageTiming(stage=stage, duration=_duration(seconds)) for stage, seconds in stages]


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
