"""Runs the four services on one machine: starts them, tells when they are ready, restarts what dies, stops all.

A service runs in a session of its own, so that Ctrl-C reaches the supervisor alone and the services are drained in
order. On Linux a service dies with the supervisor even when that is killed with SIGKILL.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.errors import ConfigError

log = logging.getLogger(__name__)
_MAX_BACKOFF_S, _STEADY_S, _MAX_FAILED_STARTS, _PROBE_S = 10.0, 30.0, 3, 0.2
_CONFIG_FAULT = 2  # the exit status of a service that was configured wrongly
# Becomes the module that it is told, which dies with the process that started it. None of this runs between fork and
# exec: gRPC's threads are at work in the supervisor, and a child that is forked from them may hang on their locks.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-m", sys.argv[2]])
"""


@dataclass(frozen=True)
class Spec:
    """Is a service to run; `health` is its full gRPC service name."""

    name: str
    health: str
    listen: str
    metrics_listen: str
    environment: Mapping[str, str]


@dataclass
class _Child:
    spec: Spec
    state: str = "starting"
    process: asyncio.subprocess.Process | None = None
    failed_starts: int = 0
    was_ready: bool = False
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Owns the processes of one stack; use `running` to start and stop them."""

    def __init__(self, specs: list[Spec], *, home: Path, stop_seconds: float = 30.0) -> None:
        self._children = {spec.name: _Child(spec) for spec in specs}
        self._logs = home / "logs"
        self._stop_seconds = stop_seconds

    def states(self) -> dict[str, str]:
        """Returns for each service: starting, ready, restarting or stopped."""
        return {name: child.state for name, child in self._children.items()}

    def pids(self) -> dict[str, int]:
        """Returns the process id of each running service."""
        return {name: child.process.pid for name, child in self._children.items() if child.process is not None}

    def log_file(self, name: str) -> Path:
        """Returns where a service's log goes."""
        return self._logs / f"{name}.log"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """Starts all services, and stops them when the block ends, however it ends."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._failure = asyncio.get_running_loop().create_future()
        for child in self._children.values():
            self.log_file(child.spec.name).write_bytes(b"")
            child.task = asyncio.create_task(self._keep(child), name=f"keep {child.spec.name}")
        try:
            yield self
        finally:
            await self._stop()

    async def wait_ready(self, *, timeout_s: float, on_change: Callable[[], None] = lambda: None) -> None:
        """Waits until every service is ready; raises ConfigError when one cannot start or the time is up."""
        waiting = asyncio.create_task(self._all_ready(on_change))
        try:
            await asyncio.wait({waiting, self._failure}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            if not waiting.done():
                late = [name for name, state in self.states().items() if state != "ready"]
                raise ConfigError(f"not ready after {timeout_s:.0f} s: {', '.join(late)}; see {self._logs}")
        finally:
            waiting.cancel()

    async def wait_failure(self) -> None:
        """Waits until a service is given up; raises ConfigError then."""
        await asyncio.shield(self._failure)

    async def _all_ready(self, on_change: Callable[[], None]) -> None:
        for child in self._children.values():
            while child.state != "ready":
                child.changed.clear()
                await child.changed.wait()
                on_change()

    async def _keep(self, child: _Child) -> None:
        backoff = 0.5
        while True:
            born = time.monotonic()
            status = await self._run_once(child)
            if time.monotonic() - born > _STEADY_S:
                backoff = 0.5
            child.failed_starts += not child.was_ready
            # A wrong setting does not mend itself, not even in a service that ran before.
            if status == _CONFIG_FAULT or child.failed_starts >= _MAX_FAILED_STARTS:
                self._give_up(child, status)
                return
            log.warning("%s ended with status %d; restarting it", child.spec.name, status)
            self._become(child, "restarting")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF_S)

    async def _run_once(self, child: _Child) -> int:
        spec = child.spec
        with self.log_file(spec.name).open("ab") as output:
            child.process = await asyncio.create_subprocess_exec(
                *command(f"services.{spec.name}"),
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=dict(spec.environment),
                start_new_session=True,
            )  # fmt: skip
        probing = asyncio.create_task(self._probe(child))
        try:
            return await child.process.wait()
        finally:
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing

    async def _probe(self, child: _Child) -> None:
        """Asks the service's health until it is ready."""
        request = health_pb2.HealthCheckRequest(service=child.spec.health)
        async with grpc.aio.insecure_channel(child.spec.listen) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = await stub.Check(request, timeout=1.0, wait_for_ready=True)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        child.was_ready = True
                        self._become(child, "ready")
                        return
                except grpc.aio.AioRpcError:
                    pass
                await asyncio.sleep(_PROBE_S)

    def _become(self, child: _Child, state: str) -> None:
        child.state = state
        child.changed.set()

    def _give_up(self, child: _Child, status: int) -> None:
        self._become(child, "stopped")
        lines = self.log_file(child.spec.name).read_text(errors="replace").splitlines()[-5:]
        told = "\n".join(f"  {_message(line)}" for line in lines)
        if not self._failure.done():
            self._failure.set_exception(ConfigError(f"{child.spec.name} does not start (status {status}):\n{told}"))

    async def _stop(self) -> None:
        for child in self._children.values():
            if child.task is not None:
                child.task.cancel()
        tasks = [child.task for child in self._children.values() if child.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        # The router first: it stops asking before the others stop answering.
        await asyncio.gather(*(self._end(child) for child in reversed(self._children.values())))
        if self._failure.done():
            self._failure.exception()
        self._failure.cancel()

    async def _end(self, child: _Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._stop_seconds)
        except TimeoutError:
            log.warning("%s did not stop in time; killing it", child.spec.name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        self._become(child, "stopped")


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Holds a folder for one stack at a time; raises ConfigError when another process has it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another `tandem up` is using {home}; stop it, or choose another --home") from None
        yield


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a port that is free now; somebody else may still take it before its user does."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def command(module: str) -> list[str]:
    """Returns the command that runs a module in a process which, on Linux, dies with this one."""
    if sys.platform != "linux":
        return [sys.executable, "-m", module]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), module]


def _message(line: str) -> str:
    try:
        row = json.loads(line)
        return f"{row['level']}: {row['message']}"
    except (ValueError, KeyError, TypeError):
        return line
