"""Serves a scripted peer inside the test's own loop."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tandem.config import ServerConfig
from tandem.rpc.channel import connect
from tandem.rpc.server import App, serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.rpc_peer import TOKENS, KnownTokens, Script, app


def recording(service: str, spans: InMemorySpanExporter) -> Telemetry:
    """Returns a telemetry whose spans end up in spans at once."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Telemetry(service, provider=provider)


@asynccontextmanager
async def hosted(
    script: Script | App | None = None,
    *,
    telemetry: Telemetry | None = None,
    tokens: Mapping[str, Principal] | None = TOKENS,
    **config: object,
) -> AsyncIterator[str]:
    """Serves a script, or a whole app; yields the address."""
    made = script if isinstance(script, App) else app(script or Script())
    known = None if tokens is None else KnownTokens(dict(tokens))
    settings = ServerConfig(**{"drain_seconds": 5.0, **config})
    async with serving(made, settings, telemetry or Telemetry("peer"), authenticator=known) as address:
        yield address


@asynccontextmanager
async def peer(
    script: Script | None = None, *, token: str | None = "alice-token", **config: object
) -> AsyncIterator[grpc.aio.Channel]:
    """Serves a script; yields a channel to it."""
    async with hosted(script, **config) as address:
        async with connect(address, token=token, default_timeout_s=20) as channel:
            yield channel
