"""Texts from GeneratorService."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import grpc

from services.router.backend.breakers import Breaker
from services.router.domain import Generated, Lineage, Piece, Prompt, Usage
from services.router.domain.calibration import Features
from tandem.prompts import Message
from tandem.v1 import common_pb2, generator_service_pb2, generator_service_pb2_grpc

_MAX_ADAPTER_PAGES = 16


class PeerGenerator:
    """Implements services.router.domain.Generator by GeneratorService."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker) -> None:
        self._stub = generator_service_pb2_grpc.GeneratorServiceStub(channel)
        self._breaker = breaker

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields an empty piece once admitted, then pieces, Generated last; closing it cancels the sequence."""
        request = generator_service_pb2.GenerateRequest(
            chat=chat_of(messages), adapter=adapter, sampling=generator_service_pb2.Sampling(max_tokens=max_tokens)
        )
        async with aclosing(self._stream(request, timeout_s)) as events:
            async for event in events:
                yield event

    async def blend(
        self, prompts: Sequence[Prompt], *, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Continues prompts together; else as `generate`."""
        blend = generator_service_pb2.Blend(
            prompts=[
                generator_service_pb2.BlendPrompt(
                    chat=chat_of(prompt.messages), adapter=prompt.adapter, weight=prompt.weight
                )
                for prompt in prompts
            ],
            mixing=generator_service_pb2.MIXING_ARITHMETIC,
        )
        request = generator_service_pb2.GenerateRequest(
            blend=blend, sampling=generator_service_pb2.Sampling(max_tokens=max_tokens)
        )
        async with aclosing(self._stream(request, timeout_s)) as events:
            async for event in events:
                yield event

    async def _stream(
        self, request: generator_service_pb2.GenerateRequest, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        with self._breaker.calling(timeout_s) as answering:
            call = self._stub.StreamGenerate(
                generator_service_pb2.StreamGenerateRequest(request=request), timeout=timeout_s
            )
            try:
                async for event in call:
                    answering()
                    if event.HasField("started"):
                        yield Piece("", _lineage(event.started.lineage))
                    elif event.HasField("delta") and event.delta.text:
                        yield Piece(event.delta.text)
                    elif event.HasField("finished"):
                        yield _generated(event.finished)
            finally:
                call.cancel()

    async def adapters(self, *, timeout_s: float) -> frozenset[str]:
        """Returns the names of the adapters that the caller may use; raises TandemError."""
        names: set[str] = set()
        token = ""
        for _ in range(_MAX_ADAPTER_PAGES):
            request = generator_service_pb2.ListAdaptersRequest(page_size=1000, page_token=token)
            with self._breaker.calling(timeout_s):
                response = await self._stub.ListAdapters(request, timeout=timeout_s)
            names.update(adapter.name for adapter in response.adapters)
            token = response.next_page_token
            if not token:
                break
        return frozenset(names)


def _generated(finished: generator_service_pb2.GenerationFinished) -> Generated:
    return Generated(
        lineage=_lineage(finished.lineage),
        usage=Usage(finished.usage.input_tokens, finished.usage.output_tokens),
        mean_logprob=finished.mean_logprob,
        signals=_signals(finished),
        lineages=tuple(_lineage(stream.lineage) for stream in finished.streams),
    )


def _signals(finished: generator_service_pb2.GenerationFinished) -> Features:
    return Features(
        mean_logprob=finished.mean_logprob,
        min_logprob=finished.min_logprob,
        mean_entropy=finished.mean_entropy if finished.HasField("mean_entropy") else None,
        max_entropy=finished.max_entropy if finished.HasField("max_entropy") else None,
        mean_margin=finished.mean_margin if finished.HasField("mean_margin") else None,
        min_margin=finished.min_margin if finished.HasField("min_margin") else None,
        num_tokens=finished.usage.output_tokens,
    )


def chat_of(messages: Sequence[Message]) -> generator_service_pb2.ChatPrompt:
    """Returns the wire form of a chat prompt."""
    return generator_service_pb2.ChatPrompt(
        messages=[generator_service_pb2.ChatMessage(role=m.role, content=m.content) for m in messages]
    )


def _lineage(lineage: common_pb2.Lineage) -> Lineage:
    return Lineage(
        model=lineage.model,
        model_sha256=lineage.model_sha256,
        adapter=lineage.adapter,
        adapter_sha256=lineage.adapter_sha256,
        signer_key_id=lineage.signer_key_id,
        cipher=lineage.cipher,
        cipher_key_id=lineage.cipher_key_id,
    )
