"""The life of a server process: settings, port, loading, readiness, draining, exit.

`run` is the whole of a service's __main__. The port is bound first and health answers at once, so that a probe can
tell "alive, loading" from "dead"; the service is ready only after `App.start` has loaded and warmed what it needs.
"""

import argparse
import asyncio
import logging
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tandem import config as settings
from tandem.config import ServerConfig
from tandem.errors import ConfigError
from tandem.rpc.interceptors import Guard
from tandem.security import Authenticator, TokenFile
from tandem.telemetry import RpcMetrics, Telemetry, setup

log = logging.getLogger(__name__)
C = TypeVar("C", bound=ServerConfig)


async def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Service:
    """Names a gRPC service, and adds its servicer to a server."""

    name: str
    add: Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class App:
    """Is what a process serves: `start` loads and warms, `stop` lets go; stop runs even when start failed.

    An app that finds that it can serve no longer sets `failed`: health tells
    so, calls are refused, and the process ends, to be started anew.
    """

    services: Sequence[Service]
    start: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing
    failed: asyncio.Event = field(default_factory=asyncio.Event)


class _Health(health.aio.HealthServicer):
    """Answers probes; watchers are told of the end and let go, for else they would hold it up."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = False

    async def Watch(self, request: Any, context: Any) -> None:
        """Tells every change of a service's state until the end."""
        await super().Watch(request, cast(Any, _Watcher(context, self)))

    async def end(self) -> None:
        """Tells every watcher that nothing is served any longer."""
        self._ending = True
        await self.enter_graceful_shutdown()

    @property
    def ending(self) -> bool:
        """Whether what is told now is the last word."""
        return self._ending


@dataclass(frozen=True)
class _Watcher:
    context: Any
    health: _Health

    async def write(self, response: Any) -> None:
        await self.context.write(response)
        if self.health.ending:
            await self.context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")


@dataclass
class _Readiness:
    state: str = "loading"
    servicer: _Health = field(default_factory=_Health)

    async def become(self, state: str, app: App) -> None:
        if state == "ready" and app.failed.is_set():
            return
        self.state = state
        if state == "draining":
            await self.servicer.end()
            return
        known = health_pb2.HealthCheckResponse
        for service in app.services:
            await self.servicer.set(service.name, known.SERVING if state == "ready" else known.NOT_SERVING)


def run(service: str, config_type: type[C], build: Callable[[C, Telemetry], Awaitable[App]]) -> int:
    """Reads the command line and the environment, serves until SIGTERM or SIGINT, and returns the exit status."""
    prefix = service.upper()
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service}",
        description=f"Runs the {service}. Its settings are environment variables.",
        epilog=_knobs(config_type, prefix),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        config = settings.load(config_type, prefix)
        telemetry = setup(service, config)
        return asyncio.run(_main(service, config=config, telemetry=telemetry, build=build))
    except ConfigError as error:
        print(f"{service}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


async def _main(
    service: str, *, config: C, telemetry: Telemetry, build: Callable[[C, Telemetry], Awaitable[App]]
) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    for address in (config.listen, config.metrics_listen):
        _check_address(address)
    try:
        metrics_port = telemetry.serve_metrics(config.metrics_listen)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.metrics_listen} for metrics: {error.strerror}") from error
    try:
        app = await build(config, telemetry)
        async with _bound(app, config, telemetry) as (server, readiness, address):
            log.info("listening", extra={"address": address, "metrics_port": metrics_port})
            if not await _start(app, readiness, stopping):
                return 0 if stopping.is_set() else 1
            log.info("ready", extra={"address": address})
            await _either(stopping, app.failed)
            log.info("draining", extra={"drain_seconds": config.drain_seconds})
            await readiness.become("draining", app)
            await server.stop(config.drain_seconds)
        log.info("stopped")
        return 1 if app.failed.is_set() else 0
    finally:
        telemetry.close()


async def _either(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and port.isascii() and int(port) < 65_536):
        raise ConfigError(f"cannot listen on {address or repr(address)}: it must be HOST:PORT")


async def _start(app: App, readiness: _Readiness, stopping: asyncio.Event) -> bool:
    """Runs app.start unless a signal comes first; tells whether the app is ready."""
    starting = asyncio.ensure_future(app.start())
    signalled = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    if error := starting.exception():
        log.error("cannot start: %s", error, exc_info=None if isinstance(error, ConfigError) else error)
        return False
    await readiness.become("ready", app)
    return True


@asynccontextmanager
async def _bound(
    app: App, config: ServerConfig, telemetry: Telemetry, authenticator: Authenticator | None = None
) -> AsyncIterator[tuple[grpc.aio.Server, _Readiness, str]]:
    """Binds the port and serves, still loading; on leaving stops the server and the app."""
    if authenticator is None and config.token_file is not None:
        authenticator = TokenFile(config.token_file)
    readiness = _Readiness()
    guard = Guard(
        authenticator=authenticator,
        readiness=readiness,
        metrics=RpcMetrics(telemetry.registry),
        tracer=telemetry.tracer,
        default_deadline_s=config.default_deadline_seconds,
        max_deadline_s=config.max_deadline_seconds,
        max_concurrent=config.max_concurrent_rpcs,
    )
    server = grpc.aio.server(interceptors=[guard], options=_options(config))
    for service in app.services:
        service.add(server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    names = [service.name for service in app.services]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    await readiness.become("loading", app)
    await readiness.servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        port = server.add_insecure_port(config.listen)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {config.listen}: is another process using the port?") from error
    await server.start()
    watching = asyncio.create_task(_watch(app, readiness), name="watch the app")
    try:
        yield server, readiness, f"{config.listen.rpartition(':')[0]}:{port}"
    finally:
        watching.cancel()
        await server.stop(0)
        await app.stop()


async def _watch(app: App, readiness: _Readiness) -> None:
    await app.failed.wait()
    log.error("the service can serve no longer")
    if readiness.state != "draining":
        await readiness.become("failed", app)


@asynccontextmanager
async def serving(
    app: App, config: ServerConfig, telemetry: Telemetry, *, authenticator: Authenticator | None = None
) -> AsyncIterator[str]:
    """Serves an app inside the running loop until the block ends; yields its address. For tests and embedding."""
    async with _bound(app, config, telemetry, authenticator) as (server, readiness, address):
        await app.start()
        await readiness.become("ready", app)
        yield address
        await readiness.become("draining", app)
        await server.stop(config.drain_seconds)


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # Lets clients keep idle connections alive with a ping every 10 s; without it they are sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _knobs(config_type: type[ServerConfig], prefix: str) -> str:
    lines = ["environment variables:"]
    for knob in settings.describe(config_type, prefix):
        about = ", ".join(filter(None, [knob.type_name, knob.unit, knob.limits]))
        lines.append(f"  {knob.variable}={knob.default}  ({about})")
        lines += textwrap.wrap(knob.help, width=100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
