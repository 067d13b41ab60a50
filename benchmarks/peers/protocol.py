"""What every runner speaks: a JSON object a line. The driver asks, the runner answers; the end of input ends it.

    runner  {"ready": {"version": ...}}                                               once, when it can work
    driver  {"prompts": [{"text": ..., "ids": [...]}], "concurrency": 4, "max_tokens": 48}
    runner  {"requests": [{"submitted": s, "times": [s, ...], "tokens": 48, "text": ...}, ...]}

The runner works a closed loop: `concurrency` callers, each sending its next prompt when it has the answer to the last.
Times are of the monotonic clock, one for each piece of output that reached the caller. Standard library only: this
runs in the environments of the peers.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """Is a question: the user's words, and the token ids of the rendered chat."""

    text: str
    ids: list[int]


@dataclass
class Result:
    """Is what the caller saw of one request; `tokens` counts the output."""

    submitted: float
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""


@dataclass(frozen=True)
class Piece:
    """Is output that arrived at once; with `late` it only tells afterwards what had arrived before."""

    tokens: int
    text: str = ""
    late: bool = False


Submit = Callable[[Prompt, int], AsyncIterator[Piece]]


async def closed_loop(submit: Submit, prompts: list[Prompt], *, concurrency: int, max_tokens: int) -> list[Result]:
    """Sends every prompt once, `concurrency` at a time; returns the results in the order of the prompts."""
    results = [Result(submitted=0.0) for _ in prompts]
    todo = iter(range(len(prompts)))

    async def caller() -> None:
        for index in todo:
            result = results[index]
            result.submitted = time.monotonic()
            async for piece in submit(prompts[index], max_tokens):
                if not piece.late:
                    result.times.append(time.monotonic())
                result.tokens += piece.tokens
                result.text += piece.text

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(prompts))):
            group.create_task(caller())
    return results


def private_output() -> int:
    """Keeps standard output for the protocol, whatever libraries print, and returns its descriptor."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


async def serve(output: int, submit: Submit, about: dict[str, Any]) -> None:
    """Answers the driver until its end of the pipe closes."""
    lines = await _lines()
    _write(output, {"ready": about})
    while line := await lines.readline():
        job = json.loads(line)
        prompts = [Prompt(**row) for row in job["prompts"]]
        results = await closed_loop(submit, prompts, concurrency=job["concurrency"], max_tokens=job["max_tokens"])
        _write(output, {"requests": [asdict(result) for result in results]})


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _write(output: int, message: dict[str, Any]) -> None:
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(output, data) :]
