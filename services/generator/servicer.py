"""GeneratorService: checks requests, calls the engine, converts by hand."""

import base64
import binascii
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import grpc

from services.generator.domain import (
    Adapter,
    Delta,
    Finished,
    FinishReason,
    GenerateInput,
    Lineage,
    Message,
    Prompt,
    Sampling,
    Started,
    Token,
)
from services.generator.engine import Engine
from services.generator.registry import Registry
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import common_pb2, generator_service_pb2, generator_service_pb2_grpc

_MAX_CHARACTERS = 65_536
_MAX_MESSAGES = 64
_REASONS = {
    FinishReason.STOP: generator_service_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generator_service_pb2.FINISH_REASON_LENGTH,
}
_Context = grpc.aio.ServicerContext[Any, Any]


class GeneratorServicer(generator_service_pb2_grpc.GeneratorServiceServicer):
    """Serves generation and the lists of what is loaded; `adopt` gives it the engine once the model is there."""

    def __init__(self) -> None:
        self._parts: tuple[Engine, Registry] | None = None

    def adopt(self, engine: Engine, registry: Registry) -> None:
        """Takes what calls are served with; the server lets no call in before."""
        self._parts = (engine, registry)

    async def Generate(
        self, request: generator_service_pb2.GenerateRequest, context: _Context
    ) -> generator_service_pb2.GenerateResponse:
        """Returns the whole text at once."""
        response = generator_service_pb2.GenerateResponse()
        pieces: list[str] = []
        engine, wanted = self._check(request)
        async with aclosing(engine.generate(wanted)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    if request.include_token_logprobs:
                        response.tokens.append(_token(event.token))
                elif isinstance(event, Finished):
                    pieces.append(event.tail)
                    response.finished.CopyFrom(_finished(event))
        response.text = "".join(pieces)
        return response

    async def StreamGenerate(
        self, request: generator_service_pb2.StreamGenerateRequest, context: _Context
    ) -> AsyncIterator[generator_service_pb2.StreamGenerateResponse]:
        """Yields started, deltas and finished."""
        engine, wanted = self._check(request.request, within="request.")
        with_tokens = request.request.include_token_logprobs
        async with aclosing(engine.generate(wanted)) as events:
            async for event in events:
                if isinstance(event, Started):
                    yield generator_service_pb2.StreamGenerateResponse(
                        started=generator_service_pb2.GenerationStarted(
                            lineage=_lineage(event.lineage), input_tokens=event.input_tokens
                        )
                    )
                elif isinstance(event, Delta):
                    if event.text or with_tokens:
                        yield _delta(event.text, [event.token] if with_tokens else [])
                else:
                    if event.tail:
                        yield _delta(event.tail, [])
                    yield generator_service_pb2.StreamGenerateResponse(finished=_finished(event))

    async def ListAdapters(
        self, request: generator_service_pb2.ListAdaptersRequest, context: _Context
    ) -> generator_service_pb2.ListAdaptersResponse:
        """Returns a page of the adapters that the caller's tenant may use."""
        _, registry = self._loaded()
        if not 0 <= request.page_size <= 1000:
            raise InvalidInput.of("page_size", "must be from 0 to 1,000")
        after = _read_page_token(request.page_token)
        adapters = [a for a in registry.visible(call.require_role("user").tenant) if a.name > after]
        size = request.page_size or 100
        page = adapters[:size]
        return generator_service_pb2.ListAdaptersResponse(
            adapters=[_adapter(adapter) for adapter in page],
            next_page_token=_page_token(page[-1].name) if len(adapters) > size else "",
        )

    async def GetModel(
        self, request: generator_service_pb2.GetModelRequest, context: _Context
    ) -> generator_service_pb2.GetModelResponse:
        """Returns the description of the base model."""
        engine, _ = self._loaded()
        call.require_role("user")
        model = engine.model
        return generator_service_pb2.GetModelResponse(
            lineage=common_pb2.Lineage(model=model.name, model_sha256=model.sha256),
            max_context_tokens=model.max_context_tokens,
            precision=model.precision,
        )

    def _loaded(self) -> tuple[Engine, Registry]:
        if self._parts is None:
            raise RuntimeError("a call came in before the model was loaded")
        return self._parts

    def _check(
        self, request: generator_service_pb2.GenerateRequest, *, within: str = ""
    ) -> tuple[Engine, GenerateInput]:
        """Returns the engine and its input; raises InvalidInput with every fault, and NotFound for the adapter."""
        engine, registry = self._loaded()
        caller = call.require_role("user")
        faults = [*_prompt_faults(request), *_sampling_faults(request.sampling)]
        if faults:
            named = [FieldViolation(within + fault.field, fault.description) for fault in faults]
            raise InvalidInput(f"{named[0].field} {named[0].description}", named)
        adapter = registry.find(request.adapter, tenant=caller.tenant) if request.adapter else None
        left = call.remaining()
        deadline = None if left is None else time.monotonic() + left
        return engine, GenerateInput(
            prompt=_prompt(request), adapter=adapter, sampling=_sampling(request.sampling), deadline=deadline
        )


def _prompt_faults(request: generator_service_pb2.GenerateRequest) -> Iterable[FieldViolation]:
    if len(request.adapter) > 1024:
        yield FieldViolation("adapter", "must be at most 1,024 characters")
    kind = request.WhichOneof("prompt")
    if kind is None:
        yield FieldViolation("prompt", "must be set: chat or text")
    elif kind == "text":
        if not 1 <= len(request.text) <= _MAX_CHARACTERS:
            yield FieldViolation("text", "must be 1 to 65,536 characters")
    else:
        yield from _chat_faults(request.chat)


def _chat_faults(chat: generator_service_pb2.ChatPrompt) -> Iterable[FieldViolation]:
    if not 1 <= len(chat.messages) <= _MAX_MESSAGES:
        yield FieldViolation("chat.messages", "must be 1 to 64 turns")
        return
    for index, message in enumerate(chat.messages):
        place = f"chat.messages[{index}]"
        if message.role not in ("system", "user", "assistant"):
            yield FieldViolation(f"{place}.role", 'must be "system", "user" or "assistant"')
        elif message.role == "system" and index > 0:
            yield FieldViolation(f"{place}.role", 'may be "system" only in the first message')
        if not 1 <= len(message.content) <= _MAX_CHARACTERS:
            yield FieldViolation(f"{place}.content", "must be 1 to 65,536 characters")
    if chat.messages[-1].role != "user":
        yield FieldViolation("chat.messages", "must end with a turn of the user")


def _sampling_faults(sampling: generator_service_pb2.Sampling) -> Iterable[FieldViolation]:
    def within(name: str, low: float, high: float, text: str) -> Iterable[FieldViolation]:
        # Written so that NaN fails as well.
        if sampling.HasField(name) and not low <= getattr(sampling, name) <= high:  # type: ignore[arg-type]
            yield FieldViolation(f"sampling.{name}", f"must be {text}")

    yield from within("max_tokens", 1, 4096, "from 1 to 4,096")
    yield from within("temperature", 0, 2, "from 0 to 2")
    yield from within("top_p", math.ulp(0.0), 1, "more than 0 and at most 1")
    yield from within("top_k", 0, 1000, "from 0 to 1,000")
    yield from within("repetition_penalty", 0.5, 2, "from 0.5 to 2")
    if len(sampling.stop) > 8:
        yield FieldViolation("sampling.stop", "must be at most 8 strings")
    for index, stop in enumerate(sampling.stop):
        if not 1 <= len(stop) <= 64:
            yield FieldViolation(f"sampling.stop[{index}]", "must be 1 to 64 characters")


def _prompt(request: generator_service_pb2.GenerateRequest) -> Prompt:
    if request.WhichOneof("prompt") == "text":
        return request.text
    return tuple(Message(message.role, message.content) for message in request.chat.messages)


def _sampling(sampling: generator_service_pb2.Sampling) -> Sampling:
    default = Sampling()
    return Sampling(
        max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else default.max_tokens,
        temperature=sampling.temperature if sampling.HasField("temperature") else default.temperature,
        top_p=sampling.top_p if sampling.HasField("top_p") else default.top_p,
        top_k=sampling.top_k if sampling.HasField("top_k") else default.top_k,
        seed=sampling.seed if sampling.HasField("seed") else None,
        stop=tuple(sampling.stop),
        repetition_penalty=(
            sampling.repetition_penalty if sampling.HasField("repetition_penalty") else default.repetition_penalty
        ),
    )


def _lineage(lineage: Lineage) -> common_pb2.Lineage:
    return common_pb2.Lineage(
        model=lineage.model,
        model_sha256=lineage.model_sha256,
        adapter=lineage.adapter,
        adapter_sha256=lineage.adapter_sha256,
    )


def _token(token: Token) -> generator_service_pb2.TokenLogprob:
    return generator_service_pb2.TokenLogprob(token_id=token.token_id, token=token.text, logprob=token.logprob)


def _delta(text: str, tokens: Iterable[Token]) -> generator_service_pb2.StreamGenerateResponse:
    return generator_service_pb2.StreamGenerateResponse(
        delta=generator_service_pb2.GenerationDelta(text=text, tokens=[_token(token) for token in tokens])
    )


def _finished(event: Finished) -> generator_service_pb2.GenerationFinished:
    finished = generator_service_pb2.GenerationFinished(
        finish_reason=_REASONS[event.reason],
        usage=common_pb2.Usage(input_tokens=event.input_tokens, output_tokens=event.output_tokens),
        lineage=_lineage(event.lineage),
        mean_logprob=event.mean_logprob,
        min_logprob=event.min_logprob,
    )
    stages = (("queue", event.queue_seconds), ("prefill", event.prefill_seconds), ("decode", event.decode_seconds))
    for stage, seconds in stages:
        timing = finished.timings.add(stage=stage)
        timing.duration.FromNanoseconds(max(0, round(seconds * 1e9)))
    return finished


def _adapter(adapter: Adapter) -> generator_service_pb2.Adapter:
    return generator_service_pb2.Adapter(
        name=adapter.name, sha256=adapter.sha256, rank=adapter.rank, num_parameters=adapter.num_parameters
    )


def _page_token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _read_page_token(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidInput.of("page_token", "is not a token that this method returned") from error
