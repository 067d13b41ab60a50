"""How long searches wait, through gRPC and beside raw pymilvus on a copy of the same file, turn by turn."""

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.retriever_embedder import embedder
from benchmarks.retriever_ingestion import send, synthetic
from benchmarks.retriever_server import BENCH, Retriever
from benchmarks.runner import ROOT
from evaluation.retrieval.documents import side_by_side
from evaluation.retrieval.measuring import latencies
from tandem.client import AsyncRetrieverClient
from tandem.scoring import percentile
from tandem.v1 import retriever_service_pb2 as retriever

DIMENSION, TOP_K = 384, 10
CONCURRENCY = (1, 16)
MODES = {
    "dense": retriever.SEARCH_MODE_DENSE,
    "sparse": retriever.SEARCH_MODE_SPARSE,
    "hybrid": retriever.SEARCH_MODE_HYBRID,
}
_RAW_START_S = 180.0
Query = dict[str, Any]
Stages = dict[tuple[str, int, str], list[float]]
"""Seconds of the server's own stages, by mode and number at once."""


def random_vectors(seed: int) -> Any:
    """Returns what turns a text into a random vector of unit length, the same for the same text."""

    def embed(text: str) -> list[float]:
        drawn = np.random.default_rng([seed, *text.encode()[:64]]).standard_normal(DIMENSION)
        return [float(value) for value in drawn / np.linalg.norm(drawn)]

    return embed


async def synthetic_latency(work: Path, *, chunks: int, rounds: int, requests: int, seed: int) -> dict[str, Any]:
    """Measures on so many synthetic chunks; they are ingested through the service, unless they are there."""
    home = work / f"synthetic-{chunks}"
    home.mkdir(parents=True, exist_ok=True)
    embed = random_vectors(seed)
    async with embedder(embed) as address:
        server = Retriever(home, address, {"DIMENSION": str(DIMENSION), "CHUNK_CHARACTERS": "400"})
        await server.start()
        try:
            started = time.perf_counter()
            async with server.client(timeout_s=120) as client:
                await send(client, synthetic(chunks, seed=seed), label=f"{chunks} synthetic chunks")
            taken = time.perf_counter() - started
        finally:
            await server.stop()
    found = await latency(home, rounds=rounds, requests=requests, seed=seed)
    return found | {"chunks": chunks, "vectors": "synthetic", "seconds to ingest or to find unchanged": taken}


async def latency(home: Path, *, rounds: int, requests: int, seed: int) -> dict[str, Any]:
    """Measures on what lies in a retriever's folder: both engines run, and one waits while the other works.

    Queries carry their vectors, so that no embedder takes part.
    """
    copy = home / "raw.db"
    database = home / "milvus.db"
    await asyncio.to_thread(shutil.copyfile, database, copy)
    server = Retriever(home, "127.0.0.1:9", {"DIMENSION": str(DIMENSION)})
    await server.start()
    cells: dict[tuple[str, str, int], list[float]] = {}
    stages: Stages = {}
    try:
        async with _raw(copy) as raw, server.client(timeout_s=120) as client:
            for number in range(rounds + 1):
                queries = _queries(requests if number else max(20, requests // 10), seed=seed + number)
                for mode in MODES:
                    for level in CONCURRENCY:
                        ours = await _ours(client, mode, level, queries, stages if number else {})
                        theirs = await raw(mode, level, queries)
                        if number:  # the first warms up
                            cells.setdefault(("tandem", mode, level), []).extend(ours)
                            cells.setdefault(("pymilvus", mode, level), []).extend(theirs)
                print(f"{home.name}: latency, round {number} of {rounds}", flush=True)
    finally:
        await server.stop()
        copy.unlink(missing_ok=True)
    rows = [
        {
            "who": who,
            "mode": mode,
            "concurrency": level,
            "requests": len(seconds),
            "latency_ms": latencies(seconds),
            "stages_ms": {
                stage: 1000 * percentile(taken, 0.5)
                for (at, many, stage), taken in stages.items()
                if (who, at, many) == ("tandem", mode, level)
            },
        }
        for (who, mode, level), seconds in cells.items()
    ]
    over = {
        f"{mode}, {level} at once": 1000
        * (percentile(cells["tandem", mode, level], 0.5) - percentile(cells["pymilvus", mode, level], 0.5))
        for mode in MODES
        for level in CONCURRENCY
    }
    return {"cells": rows, "p50 over pymilvus, ms": over, "top_k": TOP_K, "filter": where()}


def where() -> str:
    """Returns the filter that pymilvus is given: what the service makes of the caller's identity and of now."""
    marks = json.dumps(["*", *(f"g:{group}" for group in sorted(BENCH.groups))])
    now = time.time_ns() // 1000
    return (
        f'tenant == "{BENCH.tenant}" and array_contains_any(groups, {marks}) '
        f"and valid_from <= {now} and valid_until > {now}"
    )


def _queries(count: int, *, seed: int) -> list[Query]:
    source, embed = Random(seed), random_vectors(seed)  # noqa: S311
    words = ["patients", "cells", "risk", "treatment", "protein", "notice", "harbour", "storm", "clinical", "blood"]
    texts = [f"{' '.join(source.sample(words, 4))} {number}" for number in range(count)]
    return [{"text": text, "vector": embed(text)} for text in texts]


async def _ours(
    client: AsyncRetrieverClient, mode: str, level: int, queries: Sequence[Query], stages: Stages
) -> list[float]:
    waiting, seconds = deque(queries), list[float]()

    async def work() -> None:
        while waiting:
            query = waiting.popleft()
            started = time.perf_counter()
            found = await client.search(query["text"], top_k=TOP_K, mode=MODES[mode], query_vector=query["vector"])
            seconds.append(time.perf_counter() - started)
            for timing in found.timings:
                taken = timing.duration.ToMicroseconds() / 1e6
                stages.setdefault((mode, level, timing.stage), []).append(taken)

    await side_by_side(work, level)
    return seconds


@asynccontextmanager
async def _raw(path: Path) -> AsyncIterator[Any]:
    """Runs pymilvus in a process of its own and yields what measures there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.peers.milvus_runner", str(path),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    reader, writer = process.stdout, process.stdin

    async def answer() -> dict[str, Any]:
        while line := await asyncio.wait_for(reader.readline(), _RAW_START_S):
            if line.startswith(b"{"):
                row: dict[str, Any] = json.loads(line)
                return row
        raise RuntimeError("pymilvus ended; its message is above")

    async def measure(mode: str, level: int, queries: Sequence[Query]) -> list[float]:
        load = {"mode": mode, "concurrency": level, "queries": queries, "filter": where(), "top_k": TOP_K}
        writer.write(json.dumps(load).encode() + b"\n")
        await writer.drain()
        seconds: list[float] = (await answer())["seconds"]
        return seconds

    try:
        await answer()
        yield measure
    finally:
        writer.close()
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            await asyncio.wait_for(process.wait(), 20)
        if process.returncode is None:
            process.kill()
            await process.wait()
