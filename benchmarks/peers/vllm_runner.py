"""Runs `vllm serve` and talks to it over HTTP, token ids in, streamed text out; standard library only."""

import argparse
import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Piece, Prompt, private_output, serve

_START_S = 400


async def _post(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yields the events of a streamed completion."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(head.encode() + b"\r\n\r\n" + data)
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the server answered {status!r}: {(await reader.read())[-500:]!r}")
        async for line in reader:
            if line.startswith(b"data: ") and b"[DONE]" not in line:
                yield json.loads(line[6:])
    finally:
        writer.close()


def submitter(port: int, model: str) -> Callable[[Prompt, int], AsyncIterator[Piece]]:
    """Returns what sends one prompt to the server."""

    async def submit(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        body = {
            "model": model, "prompt": prompt.ids, "max_tokens": max_tokens, "min_tokens": max_tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        async for event in _post(port, "/v1/completions", body):
            if event.get("usage"):
                yield Piece(event["usage"]["completion_tokens"], late=True)
            elif event["choices"]:
                yield Piece(0, event["choices"][0]["text"])

    return submit


async def _ready(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.0\r\n\r\n")
                status = await reader.readline()
                writer.close()
                if b" 200 " in status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.5)  # vLLM offers nothing to wait on
    raise RuntimeError(f"vllm ended with status {process.returncode}")


async def _main() -> None:
    output = private_output()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(options.threads), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("vllm")), "serve", options.model, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "32", "--no-enable-prefix-caching",
        env=environment, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _ready(port, process)
        await serve(output, submitter(port, options.model), {"version": "vllm-cpu, over HTTP"})
    finally:
        # Its workers are in this process's group, which the driver ends as a whole.
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 20)


if __name__ == "__main__":
    asyncio.run(_main())
