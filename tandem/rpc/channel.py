"""Channels to Tandem services: identity, what is left of the deadline, the trace, and retries where they are safe."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem.rpc import call

DEFAULT_TIMEOUT_S = 30.0
_TRACE = TraceContextTextMapPropagator()
# Calls that may be sent again because doing them twice is doing them once. gRPC itself retries only while no part of
# a response has arrived, and varies the wait by a fifth.
_IDEMPOTENT = (
    {"service": "tandem.v1.EmbedderService"},
    {"service": "tandem.v1.GeneratorService"},
    {"service": "tandem.v1.AuditService"},
    *({"service": "tandem.v1.RetrieverService", "method": m} for m in ("Search", "GetDocument", "ListDocuments")),
)
_RETRY = {
    "maxAttempts": 2,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# A failed attempt takes a token, a success gives half of one back; nothing is sent again at half of the tokens or less.
_THROTTLING = {"maxTokens": 10, "tokenRatio": 0.5}
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": list(_IDEMPOTENT), "retryPolicy": _RETRY}],
        "retryThrottling": _THROTTLING,
    }
)

Details = grpc.aio.ClientCallDetails
Continuation = Callable[[Details, Any], Awaitable[Any]]


class _Outgoing:
    """Completes the details of a call before it leaves."""

    def __init__(self, *, token: str | None, forward_principal: bool, default_timeout_s: float) -> None:
        self._token = token
        self._forward = forward_principal
        self._default_timeout_s = default_timeout_s

    def timeout(self, asked: float | None) -> float:
        """Returns what is left of the call being served, or less if less was asked for."""
        left = call.remaining()
        wanted = self._default_timeout_s if asked is None else asked
        return wanted if left is None else min(wanted, left)

    def metadata(self, given: Any) -> list[tuple[str, str | bytes]]:
        """Returns the given metadata with identity and trace added."""
        rows: list[tuple[str, str | bytes]] = list(given or ())
        if self._token is not None:
            rows.append(("authorization", f"Bearer {self._token}"))
        current = call.current()
        if self._forward and current is not None and current.principal is not None:
            rows.append((call.PRINCIPAL_KEY, current.principal.to_json().encode()))
        carrier: dict[str, str] = {}
        _TRACE.inject(carrier)
        rows.extend(carrier.items())
        return rows

    def details(self, details: Details) -> Details:
        """Returns the completed details."""
        return Details(
            method=details.method,
            timeout=self.timeout(details.timeout),
            metadata=grpc.aio.Metadata(*self.metadata(details.metadata)),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


# grpc.aio files an interceptor under the first kind that it is an instance of, hence one class for each.
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outgoing.details(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outgoing.details(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._outgoing.details(client_call_details), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._outgoing.details(client_call_details), request_iterator)


def connect(
    target: str,
    *,
    token: str | None = None,
    forward_principal: bool = False,
    default_timeout_s: float = DEFAULT_TIMEOUT_S,
    max_message_bytes: int = 4 * 1024 * 1024,
) -> grpc.aio.Channel:
    """Opens a channel for use in a running event loop; nothing is sent before the first call.

    forward_principal passes on who the call being served is for; the peer accepts that only with a service's token.
    """
    outgoing = _Outgoing(token=token, forward_principal=forward_principal, default_timeout_s=default_timeout_s)
    return grpc.aio.insecure_channel(
        target,
        options=_options(max_message_bytes),
        interceptors=cast(
            "Sequence[grpc.aio.ClientInterceptor]",
            [_UnaryUnary(outgoing), _UnaryStream(outgoing), _StreamUnary(outgoing), _StreamStream(outgoing)],
        ),
    )


class _SyncOutgoing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    def _send(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = client_call_details._replace(
            timeout=self._outgoing.timeout(client_call_details.timeout),
            metadata=self._outgoing.metadata(client_call_details.metadata),
        )
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = _send
    intercept_stream_unary = intercept_stream_stream = _send  # type: ignore[assignment]


def connect_sync(
    target: str,
    *,
    token: str | None = None,
    default_timeout_s: float = DEFAULT_TIMEOUT_S,
    max_message_bytes: int = 4 * 1024 * 1024,
) -> grpc.Channel:
    """Opens a channel for blocking calls."""
    outgoing = _Outgoing(token=token, forward_principal=False, default_timeout_s=default_timeout_s)
    channel = grpc.insecure_channel(target, options=_options(max_message_bytes))
    return grpc.intercept_channel(channel, _SyncOutgoing(outgoing))


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 1),
        # A peer that comes back is found within about a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
