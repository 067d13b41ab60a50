"""Generates on another server through its OpenAI-compatible API: vLLM, llama.cpp, KServe.

It streams text with the logprobs and alternatives that the server tells. It
has no adapters (a server's answer does not prove which weights it ran on,
nor whose), no blends, no scores and no entropy; requests for them are
refused.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx2
from opentelemetry import propagate
from opentelemetry.trace import Span, Tracer, set_span_in_context

from services.generator.backend.openai import api
from services.generator.backend.openai.door import Door, Flow
from services.generator.backend.openai.sequence import Sequence
from services.generator.domain import (
    Event,
    Feature,
    GenerateInput,
    Limits,
    Score,
    ScoreInput,
    Usage,
)
from services.generator.metrics import GeneratorMetrics
from tandem.errors import DeadlineExceeded, TandemError, Unavailable

log = logging.getLogger(__name__)
_MAX_ERROR_BYTES = 65_536


class OpenAiBackend:
    """Is a Backend on a server; at most max_running sequences are there at a time, the others wait at our door."""

    features: frozenset[Feature] = frozenset()

    def __init__(
        self,
        *,
        client: httpx2.AsyncClient,
        served: api.Served,
        limits: Limits,
        metrics: GeneratorMetrics,
        tracer: Tracer,
    ) -> None:
        self.model = served.model
        self._client = client
        self._served = served
        self._metrics = metrics
        self._tracer = tracer
        self._door = Door(max_running=limits.max_running, max_waiting=limits.max_waiting, metrics=metrics)
        self._serving = False

    async def start(self) -> None:
        """Opens the door."""
        self._serving = True

    async def stop(self) -> None:
        """Closes the door and the connections; whatever waits for the server fails with Unavailable."""
        self._serving = False
        await self._client.aclose()

    def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        """Yields Started, a Delta for each token that the server tells, and Finished; raises as the port says.

        Started comes with the first token, for a server does not tell when it
        admits a sequence; its input_tokens are 0 where the server counts only
        at the end. llama.cpp does not tell the token that ends the turn, nor
        any but the last of the tokens that form one character.
        """
        for pin in request.pins:
            pin.release()
        return self._generate(request)

    async def score(self, request: ScoreInput) -> tuple[list[Score], Usage]:
        """Refuses: the API has no way to ask for the likelihood of a given text."""
        if request.pin is not None:
            request.pin.release()
        raise api.unsupported("scoring", "scoring")

    async def _generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        _check(request)
        lineage = self.model.lineage()
        sequence = Sequence(lineage=lineage, max_tokens=request.sampling.max_tokens)
        with self._watched(sequence, tenant=request.tenant) as span:
            async with self._place(request, sequence) as flow:
                async with aclosing(self._chunks(request, span)) as chunks:
                    async for chunk in chunks:
                        for event in sequence.push(chunk):
                            self._door.charge(flow, 1)
                            yield event
                finished = sequence.close()
                self._door.charge(flow, finished.usage.input_tokens)
            yield finished

    async def _chunks(self, request: GenerateInput, span: Span) -> AsyncGenerator[api.Chunk, None]:
        """Yields what the server sends; leaving it closes the connection, by which the server frees the slot."""
        response = await self._send(request, span)
        try:
            events = aiter(httpx2.EventSource(response))
            while True:
                async with self._bounded(request.deadline):
                    event = await anext(events, None)
                if event is None or event.data == "[DONE]":
                    return
                yield api.chunk(event.data, num_alternatives=request.num_alternatives)
        finally:
            await response.aclose()

    async def _send(self, request: GenerateInput, span: Span) -> httpx2.Response:
        """Returns the open response; where prompt and max_tokens exceed the context, asks again for what fits."""
        response = await self._post(request, api.body(request, self._served), span)
        if isinstance(response, httpx2.Response):
            return response
        if response.reason == "PROMPT_TOO_LONG" and self._served.dialect is api.Dialect.VLLM:
            left = self.model.max_context_tokens - await self._count(request)
            if 0 < left < request.sampling.max_tokens:
                response = await self._post(request, api.body(request, self._served, max_tokens=left), span)
                if isinstance(response, httpx2.Response):
                    return response
        raise response

    async def _post(self, request: GenerateInput, body: dict[str, Any], span: Span) -> httpx2.Response | TandemError:
        """Returns the open response, or what the server's refusal means."""
        path = "chat/completions" if "messages" in body else "completions"
        headers: dict[str, str] = {}
        propagate.inject(headers, context=set_span_in_context(span))
        async with self._bounded(request.deadline):
            response = await self._client.send(
                self._client.build_request("POST", path, json=body, headers=headers), stream=True
            )
            if response.status_code == httpx2.codes.OK:
                return response
            try:
                content = await _read(response)
                kind = api.error_type(content)
                log.warning("the model server refused", extra={"status": response.status_code, "type": kind})
                return api.failure(response, content)
            finally:
                await response.aclose()

    async def _count(self, request: GenerateInput) -> int:
        """Returns the length of the prompt in tokens, as vLLM counts it; raises InvalidInput where it does not tell."""
        body = api.body(request, self._served)
        wanted = {key: body[key] for key in ("model", "prompt", "messages") if key in body}
        async with self._bounded(request.deadline):
            response = await self._client.post(self._client.base_url.join("/tokenize"), json=wanted)
        try:
            return int(response.json()["count"])
        except (ValueError, LookupError, TypeError) as error:
            raise api.prompt_too_long() from error

    @asynccontextmanager
    async def _place(self, request: GenerateInput, sequence: Sequence) -> AsyncIterator[Flow]:
        async with self._bounded(request.deadline):
            flow = await self._door.enter(request.tenant, request.priority)
        sequence.admitted = time.monotonic()
        self._metrics.queue_seconds.observe(sequence.admitted - sequence.arrived)
        try:
            yield flow
        finally:
            self._door.leave(flow, seconds=time.monotonic() - sequence.admitted if sequence.closed else None)

    @asynccontextmanager
    async def _bounded(self, deadline: float | None) -> AsyncIterator[None]:
        """Bounds a wait by the caller's deadline; a connection that fails, or that our stop closed, is Unavailable."""
        if not self._serving:
            raise Unavailable("the generator is not running")
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed during generation") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise Unavailable("the connection to the model server failed") from error

    @contextmanager
    def _watched(self, sequence: Sequence, *, tenant: str) -> Iterator[Span]:
        """Counts how a sequence ends and how long it took."""
        span = self._tracer.start_span("generator.sequence")
        span.set_attribute("gen_ai.request.model", self.model.name)
        outcome: str | None = None
        try:
            yield span
        except DeadlineExceeded:
            outcome = "deadline"
            raise
        except Unavailable:
            outcome = "failed"
            raise
        except TandemError:
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            if reason := sequence.finish if sequence.closed else outcome:
                self._metrics.sequences.labels(reason).inc()
            self._observe(sequence, tenant)
            span.set_attribute("gen_ai.usage.input_tokens", sequence.counts.input_tokens if sequence.counts else 0)
            span.set_attribute("gen_ai.usage.output_tokens", sequence.counts.output_tokens if sequence.counts else 0)
            span.end()

    def _observe(self, sequence: Sequence, tenant: str) -> None:
        metrics = self._metrics
        if sequence.first is not None and sequence.last is not None:
            metrics.time_to_first_token.observe(sequence.first - sequence.arrived)
            if sequence.closed and len(sequence.tokens) > 1:
                mean = (sequence.last - sequence.first) / (len(sequence.tokens) - 1)
                metrics.time_per_output_token.observe(mean)
        if counts := sequence.counts:
            metrics.prefill_tokens.inc(counts.input_tokens - counts.cached_tokens)
            metrics.prefix_hit_tokens.inc(counts.cached_tokens)
            metrics.decode_tokens.inc(counts.output_tokens)
            metrics.tenant_tokens.labels(tenant, "input").inc(counts.input_tokens)
            metrics.tenant_tokens.labels(tenant, "output").inc(counts.output_tokens)


def _check(request: GenerateInput) -> None:
    """Raises FailedPrecondition for a request that needs what no such server has."""
    if request.pins:
        raise api.unsupported("adapters", "adapters")
    if len(request.streams) > 1:
        raise api.unsupported("blending", "blends")


async def _read(response: httpx2.Response) -> bytes:
    """Reads a refusal, as much of it as is worth reading."""
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > _MAX_ERROR_BYTES:
            break
    return content
