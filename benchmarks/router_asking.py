"""Asks a router and keeps what its caller sees."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.router_figures import Asked
from tandem.client import AsyncRouterClient

_TIMEOUT_S = 60.0


async def ask(client: AsyncRouterClient, question: str, **wish: Any) -> Asked:
    """Streams one answer; raises TandemError as the client does."""
    start = time.perf_counter()
    first = None
    answer = None
    async for event in client.stream(question, timeout=_TIMEOUT_S, **wish):
        kind = event.WhichOneof("event")
        if kind == "delta" and first is None:
            first = time.perf_counter() - start
        elif kind == "finished":
            answer = event.finished.answer
    seconds = time.perf_counter() - start
    if answer is None:
        raise RuntimeError("the stream ended without an answer")
    return Asked(
        seconds=seconds,
        first_s=first,
        timings={timing.stage: timing.duration.ToNanoseconds() / 1e9 for timing in answer.timings},
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        abstained=answer.abstained,
        degraded=bool(answer.degraded),
    )


async def closed_loop(
    client: AsyncRouterClient, questions: Sequence[str], *, callers: int, **wish: Any
) -> tuple[list[Asked], float]:
    """Asks every question once, so many at a time; returns the answers as they came and the seconds that all took."""
    found: list[Asked] = []

    async def caller(waiting: Iterable[str]) -> None:
        for question in waiting:
            found.append(await ask(client, question, **wish))

    shared, start = iter(questions), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller(shared))
    return found, time.perf_counter() - start


async def open_loop(
    client: AsyncRouterClient, questions: Sequence[str], *, rate: float, seed: int, **wish: Any
) -> tuple[list[Asked], float]:
    """Asks `rate` questions a second on average, each at a moment that hangs on no other (Poisson arrivals).

    Returns what `closed_loop` returns.
    """
    draws, start = random.Random(seed), time.perf_counter()  # noqa: S311
    due, work = start, []
    async with asyncio.TaskGroup() as group:
        for question in questions:
            due += draws.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            work.append(group.create_task(ask(client, question, **wish)))
    return [task.result() for task in work], time.perf_counter() - start
