"""What happens around every call of a server, unary or streaming, in one place.

In order: is the service ready, is there room, who asks, how long may it take; then the servicer runs inside a span;
then its failure, if any, becomes a status, and the call is counted. Health and reflection are open: a probe has no
token and must be answered while the service is loading.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    Overloaded,
    PermissionDenied,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.rpc import call, status
from tandem.security import Authenticator, Principal
from tandem.telemetry import RpcMetrics

_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
# Codes that are the server's fault, by the semantic conventions for RPC server spans.
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
# The trace alone: baggage is the caller's words, which would be passed on, and logged when they are malformed.
_TRACE = TraceContextTextMapPropagator()
log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]


class Readiness(Protocol):
    """Tells whether calls may come in: "ready", or why not ("loading", "draining")."""

    @property
    def state(self) -> str:
        """The present state."""
        ...


class _Malformed:
    """Stands for a message whose bytes could not be decoded."""


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server; see the module's docstring."""

    def __init__(
        self,
        *,
        authenticator: Authenticator | None,
        readiness: Readiness,
        metrics: RpcMetrics,
        tracer: trace.Tracer,
        default_deadline_s: float,
        max_deadline_s: float,
        max_concurrent: int,
    ) -> None:
        self._authenticator = authenticator
        self._readiness = readiness
        self._metrics = metrics
        self._tracer = tracer
        self._default_deadline_s = default_deadline_s
        self._max_deadline_s = max_deadline_s
        self._max_concurrent = max_concurrent
        self._in_flight = 0

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Returns the handler of a method with this guard around it."""
        handler = cast(Any, await continuation(handler_call_details))
        if handler is None:
            return cast("grpc.RpcMethodHandler[Any, Any]", handler)
        method = handler_call_details.method
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        wrapped = _wrap_open(behaviour) if method.startswith(_OPEN) else self._wrap(method.lstrip("/"), behaviour)
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return cast(
            "grpc.RpcMethodHandler[Any, Any]",
            make(
                wrapped,
                request_deserializer=_tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            ),
        )

    def _wrap(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def handle(request: Any, context: Context) -> Any:
            return await self._handle(method, lambda: _respond(behaviour, request, context), context)

        return handle

    async def _handle(self, method: str, respond: Callable[[], Awaitable[Any]], context: Context) -> Any:
        start = time.perf_counter()
        code = "OK"
        parent = _TRACE.extract(_text_metadata(context))
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        with self._tracer.start_as_current_span(
            method,
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await self._admit_and_run(respond, context)
            except TandemError as error:
                code = error.code
                await _abort(context, error)
            except grpc.aio.AbortError:
                code = getattr(context.code(), "name", "UNKNOWN")
                raise
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # the one place that turns a bug into a status
                code = "INTERNAL"
                log.exception("unhandled failure", extra={"method": method, "error": type(error).__name__})
                await _abort(context, Internal(type(error).__name__))
            finally:
                span.set_attribute("rpc.response.status_code", code)
                if code in _SERVER_FAULTS:
                    span.set_status(StatusCode.ERROR, code)
                self._in_flight -= 1
                self._metrics.in_flight.set(self._in_flight)
                self._metrics.duration.labels(method, code).observe(time.perf_counter() - start)

    async def _admit_and_run(self, respond: Callable[[], Awaitable[Any]], context: Context) -> Any:
        state = self._readiness.state
        if state != "ready":
            self._metrics.refused.labels("draining" if state == "draining" else "not_ready").inc()
            raise Unavailable(f"the service is {state}", retry_after_s=1.0, reason=f"SERVICE_{state.upper()}")
        principal = self._identify(context)
        if self._in_flight > self._max_concurrent:
            self._metrics.refused.labels("too_many").inc()
            raise Overloaded("too many calls at once", retry_after_s=1.0, reason="TOO_MANY_CALLS")
        left = context.time_remaining()
        allowed = min(self._default_deadline_s if left is None else left, self._max_deadline_s)
        if allowed <= 0:
            raise DeadlineExceeded("the deadline had passed when the call arrived")
        call.enter(call.Call(principal=principal, deadline=time.monotonic() + allowed))
        try:
            async with asyncio.timeout(allowed) as timer:
                return await respond()
        except TimeoutError:
            if timer.expired():
                raise DeadlineExceeded(f"the call took longer than the {allowed:.1f} s it had") from None
            raise

    def _identify(self, context: Context) -> Principal:
        if self._authenticator is None:
            raise Unauthenticated("this server has no token file, so it accepts no one")
        token, forwarded = None, None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str) and value.lower().startswith("bearer "):
                token = value[7:].strip()
            elif key == call.PRINCIPAL_KEY:
                forwarded = value
        if not token:
            raise Unauthenticated('metadata "authorization: Bearer <token>" is missing')
        caller = self._authenticator.resolve(token)
        if forwarded is None:
            return caller
        if "service" not in caller.roles:
            raise PermissionDenied('only the role "service" may speak for another principal')
        try:
            return Principal.from_json(forwarded)
        except ValueError:
            raise InvalidInput.of(call.PRINCIPAL_KEY, "is not a principal") from None


async def _respond(behaviour: Behaviour, request: Any, context: Context) -> Any:
    outcome = behaviour(_checked(request), context)
    if not hasattr(outcome, "__aiter__"):
        return await outcome
    # Written to the context instead of yielded, so that a cancellation arrives inside this coroutine and the servicer's
    # generator is closed in the task, and thus in the context, that it ran in.
    async with aclosing(outcome) as responses:
        async for response in responses:
            await context.write(response)
    return None


def _wrap_open(behaviour: Behaviour) -> Behaviour:
    async def handle(request: Any, context: Context) -> Any:
        try:
            return await _respond(behaviour, request, context)
        except InvalidInput as error:
            await _abort(context, error)

    return handle


async def _abort(context: Context, error: TandemError) -> None:
    code, message, trailers = status.to_grpc(error)
    await context.abort(code, message, trailers)


def _text_metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    # gRPC itself answers INTERNAL when a request cannot be decoded; the fault is the caller's.
    if deserialize is None:
        return None

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except (DecodeError, ValueError, RecursionError):
            return _Malformed()

    return decode


def _checked(request: Any) -> Any:
    if hasattr(request, "__aiter__"):
        return _checked_stream(request)
    if isinstance(request, _Malformed):
        raise InvalidInput("the request is not a valid message of its type", reason="MALFORMED_MESSAGE")
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)
