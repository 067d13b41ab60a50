"""What is measured: embedders in processes of their own, each behind the same two questions."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from benchmarks import environments
from benchmarks.runner import ROOT
from tandem.client import AsyncEmbedderClient
from tandem.config import inherited_environment
from tandem.security import Principal, issue, write_secret
from tandem.supervisor import Spec, Supervisor, free_port

_START_S, _ANSWER_S = 300.0, 900.0
_MAX_LINE = 1 << 28
_CALL_TEXTS, _CALLS = 64, 4
_OURS = ("TANDEM_", "EMBEDDER_", "OTEL_")
# What `tandem up` sets, for all arms alike.
_QUIET = {"GOMP_SPINCOUNT": "20000", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
Rows = list["array[float]"]


@dataclass
class Answer:
    """Is how long each text took ("single"), or all of them together ("bulk"), and their vectors."""

    seconds: list[float]
    vectors: Rows = field(default_factory=list)


class Embedder(Protocol):
    """Is one running arm."""

    version: str
    serves: bool
    """Tells whether several callers can ask at once."""

    async def single(self, texts: Sequence[str], *, concurrency: int) -> Answer:
        """Embeds one text in each call."""

    async def bulk(self, texts: Sequence[str]) -> Answer:
        """Embeds all texts as fast as the arm can."""


Start = Callable[[Path, int], AbstractAsyncContextManager[Embedder]]


@dataclass(frozen=True)
class Arm:
    """Is something to be measured."""

    name: str
    about: str
    start: Start
    ours: bool = False


class _Process:
    """Embeds in a peer's process, which takes the time itself: the pipe to it does not count."""

    serves = False

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.version = ""

    async def single(self, texts: Sequence[str], *, concurrency: int) -> Answer:
        return await self._ask(texts, "single")

    async def bulk(self, texts: Sequence[str]) -> Answer:
        return await self._ask(texts, "bulk")

    async def _ask(self, texts: Sequence[str], mode: str) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps({"texts": list(texts), "mode": mode}) + "\n").encode())
        answer = await self.read(_ANSWER_S)
        flat = array("f", base64.b64decode(answer["vectors"]))
        size = len(flat) // len(texts)
        return Answer(answer["seconds"], [flat[start : start + size] for start in range(0, len(flat), size)])

    async def read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        if not line:
            raise RuntimeError(f"the runner ended with status {await self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        return message


class _Calls:
    """Embeds by calls that `_embed` makes; the time is what the caller waits."""

    version = ""
    serves = True

    async def _embed(self, texts: Sequence[str]) -> Rows:
        raise NotImplementedError

    async def single(self, texts: Sequence[str], *, concurrency: int) -> Answer:
        return await self._closed_loop([[text] for text in texts], concurrency)

    async def bulk(self, texts: Sequence[str]) -> Answer:
        parts = [texts[start : start + _CALL_TEXTS] for start in range(0, len(texts), _CALL_TEXTS)]
        begun = time.perf_counter()
        found = await self._closed_loop(parts, _CALLS)
        return Answer([time.perf_counter() - begun], found.vectors)

    async def _closed_loop(self, parts: Sequence[Sequence[str]], concurrency: int) -> Answer:
        seconds, vectors = [0.0] * len(parts), [Rows() for _ in parts]
        todo = iter(range(len(parts)))

        async def caller() -> None:
            for number in todo:
                begun = time.perf_counter()
                vectors[number] = await self._embed(parts[number])
                seconds[number] = time.perf_counter() - begun

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(parts))):
                group.create_task(caller())
        return Answer(seconds, list(chain.from_iterable(vectors)))


class _Ours(_Calls):
    version = "this commit, over gRPC"

    def __init__(self, client: AsyncEmbedderClient) -> None:
        self._client = client

    async def _embed(self, texts: Sequence[str]) -> Rows:
        response = await self._client.embed(texts)
        return [array("f", embedding.values) for embedding in response.embeddings]


class _Http(_Calls):
    def __init__(self, port: int, threads: ThreadPoolExecutor) -> None:
        self._port, self._threads = port, threads
        self._free: list[http.client.HTTPConnection] = []

    async def _embed(self, texts: Sequence[str]) -> Rows:
        body = json.dumps({"texts": list(texts)})
        rows = await asyncio.get_running_loop().run_in_executor(self._threads, self.ask, "POST", "/embed", body)
        return [array("f", row) for row in rows]

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Sends one request on a connection that stays open."""
        connection = self._free.pop() if self._free else http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        self._free.append(connection)
        if response.status != 200:
            raise RuntimeError(f"the server said {response.status}")
        return json.loads(data)

    def close(self) -> None:
        for connection in self._free:
            connection.close()


def peer(engine: str, precision: str) -> Start:
    """Returns how to start an engine in a peer's process."""

    @asynccontextmanager
    async def start(model: Path, threads: int) -> AsyncIterator[Embedder]:
        arguments = ["--engine", engine, "--precision", precision, "--model", str(model), "--threads", str(threads)]
        async with _process("embedder_runner", arguments, threads) as process:
            runner = _Process(process)
            runner.version = (await runner.read(_START_S))["ready"]["version"]
            yield runner

    return start


@asynccontextmanager
async def http_server(model: Path, threads: int) -> AsyncIterator[Embedder]:
    """Starts sentence-transformers behind FastAPI."""
    port = free_port()
    arguments = ["--model", str(model), "--port", str(port), "--threads", str(threads)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        async with _process("embedder_server", arguments, threads):
            client = _Http(port, pool)
            for _ in range(round(_START_S)):
                with contextlib.suppress(OSError):
                    client.version = client.ask("GET", "/health")["version"]
                    break
                await asyncio.sleep(1)
            else:
                raise TimeoutError("the server never answered")
            yield client
            client.close()


@asynccontextmanager
async def _process(module: str, arguments: list[str], threads: int) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ, **_QUIET, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        str(environments.python("embedder")), "-m", f"benchmarks.peers.{module}", *arguments, env=environment,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        limit=_MAX_LINE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def ours(settings: dict[str, str]) -> Start:
    """Returns how to start our embedder with these settings (names without their prefix)."""

    @asynccontextmanager
    async def start(model: Path, threads: int) -> AsyncIterator[Embedder]:
        inherited = {key: value for key, value in inherited_environment().items() if not key.startswith(_OURS)}
        text, tokens = issue({"bench": Principal("bench", "bench", roles=frozenset({"user"}))})
        with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
            home = Path(folder)
            write_secret(home / "tokens.json", text)
            target, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            own = {
                "LISTEN": target, "METRICS_LISTEN": metrics, "TOKEN_FILE": str(home / "tokens.json"),
                "MODEL": str(model), "WORKERS": str(threads), "THREADS": "1", "CACHE_TEXTS": "0", **settings,
            }  # fmt: skip
            environment = inherited | _QUIET | {f"EMBEDDER_{key}": value for key, value in own.items()}
            spec = Spec("embedder", "tandem.v1.EmbedderService", target, metrics, environment)
            async with Supervisor([spec], home=home).running() as supervisor:
                await supervisor.wait_ready(timeout_s=_START_S)
                async with AsyncEmbedderClient(target, token=tokens["bench"], timeout=_ANSWER_S) as client:
                    yield _Ours(client)

    return start


REFERENCE = "sentence-transformers-fp32"
SERVER = "sentence-transformers-server"
DEFAULT = "tandem-default"
EXACT = "tandem-torch-fp32"
ARMS = [
    Arm(REFERENCE, "`encode` in its own process, batches of 32", peer("sentence-transformers", "fp32")),
    Arm("sentence-transformers-bf16", "the same, weights in bf16", peer("sentence-transformers", "bf16")),
    Arm("onnxruntime-fp32", "in its own process, batches by length", peer("onnxruntime", "fp32")),
    Arm("onnxruntime-int8", "the same, dynamic quantisation", peer("onnxruntime", "int8")),
    Arm("openvino-fp32", "in its own process, batches by length", peer("openvino", "fp32")),
    Arm("openvino-bf16", "the same in bf16", peer("openvino", "bf16")),
    Arm("openvino-int8", "the same in int8 by nncf", peer("openvino", "int8")),
    Arm(SERVER, "`encode` in fp32 behind FastAPI, over HTTP", http_server),
    Arm(EXACT, "over gRPC", ours({"BACKEND": "torch", "PRECISION": "fp32"}), ours=True),
    Arm("tandem-torch", "over gRPC, bf16 where the processor has it", ours({"BACKEND": "torch"}), ours=True),
    Arm(DEFAULT, "over gRPC, as it comes: OpenVINO, bf16 where the processor has it", ours({}), ours=True),
    Arm("tandem-openvino-int8", "over gRPC", ours({"BACKEND": "openvino", "PRECISION": "int8"}), ours=True),
]
