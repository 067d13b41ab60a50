"""A real retriever process on a folder, begun and killed as often as a measurement likes."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.client import AsyncEmbedderClient, AsyncRetrieverClient
from tandem.config import inherited_environment
from tandem.security import Principal, issue, write_secret
from tandem.supervisor import Spec, Supervisor, command, free_port

_SERVICE = "tandem.v1.RetrieverService"
_START_S, _STOP_S, _PROBE_S = 120.0, 60.0, 0.05
_OURS = ("TANDEM_", "RETRIEVER_", "EMBEDDER_", "OTEL_")
DATABASE = "milvus.db"
BENCH = Principal("bench", "bench", groups=frozenset({"staff"}), roles=frozenset({"user", "editor", "platform"}))


class Retriever:
    """Is the process, and what can be done to it. Everything of it lies in `home`."""

    def __init__(self, home: Path, embedder: str, settings: Mapping[str, str]) -> None:
        text, tokens = issue({"bench": BENCH})
        write_secret(home / "tokens.json", text)
        self.token = tokens["bench"]
        self._home = home
        self.log = home / "retriever.log"
        self.database = home / DATABASE
        self.target, self.metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        own = {
            "LISTEN": self.target,
            "METRICS_LISTEN": self.metrics,
            "TOKEN_FILE": str(home / "tokens.json"),
            "MILVUS_URI": str(self.database),
            "EMBEDDER_TARGET": embedder,
            **settings,
        }
        self._environment = _inherited() | {f"RETRIEVER_{key}": value for key, value in own.items()}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The service's process."""
        if self._process is None:
            raise RuntimeError("the retriever is not running")
        return self._process.pid

    @property
    def engine_pid(self) -> int | None:
        """Milvus Lite's process, as the retriever noted it."""
        try:
            return int((self._home / f".{DATABASE}.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def client(self, *, timeout_s: float = 60.0) -> AsyncRetrieverClient:
        """Opens a client."""
        return AsyncRetrieverClient(self.target, token=self.token, timeout=timeout_s)

    async def begin(self) -> None:
        """Starts the process."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command("services.retriever"),
                env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    async def start(self) -> float:
        """Starts the process and returns after how many seconds it was ready; raises RuntimeError where it ends."""
        started = time.perf_counter()
        await self.begin()
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while time.perf_counter() - started < _START_S:
                if self._process is None or self._process.returncode is not None:
                    break
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=_SERVICE), timeout=1.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return time.perf_counter() - started
                await asyncio.sleep(_PROBE_S)
        raise RuntimeError(f"the retriever did not become ready: {self.log.read_text(errors='replace')[-2000:]}")

    def kill_engine(self) -> bool:
        """Kills Milvus Lite with SIGKILL; tells whether there was one."""
        pid = self.engine_pid
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    async def kill(self, *, engine_too: bool) -> None:
        """Kills the service with SIGKILL, and the engine at the same moment or not at all."""
        if self._process is None or self._process.returncode is not None:
            return
        if engine_too:
            self._process.send_signal(signal.SIGSTOP)  # it cannot react to the engine's death
            self.kill_engine()
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Stops the process in order; kills it where it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def model_embedder(home: Path, settings: Mapping[str, str]) -> AsyncIterator[tuple[str, AsyncEmbedderClient]]:
    """Runs a real embedder that takes the tokens of `home`'s retriever; yields its address and a client."""
    target, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    text, tokens = issue({"bench": BENCH, "retriever": Principal("retriever", "tandem", roles=frozenset({"user"}))})
    write_secret(home / "embedder-tokens.json", text)
    write_secret(home / "retriever.token", tokens["retriever"] + "\n")
    own = {
        "LISTEN": target,
        "METRICS_LISTEN": metrics,
        "TOKEN_FILE": str(home / "embedder-tokens.json"),
        **settings,
    }
    environment = _inherited() | {f"EMBEDDER_{key}": value for key, value in own.items()}
    spec = Spec("embedder", "tandem.v1.EmbedderService", target, metrics, environment)
    async with Supervisor([spec], home=home).running() as supervisor:
        await supervisor.wait_ready(timeout_s=_START_S)
        async with AsyncEmbedderClient(target, token=tokens["bench"], timeout=120) as client:
            yield target, client


def _inherited() -> dict[str, str]:
    return {key: value for key, value in inherited_environment().items() if not key.startswith(_OURS)}
