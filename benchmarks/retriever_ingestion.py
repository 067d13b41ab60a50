"""What it costs to take documents in, by stage, in time and memory; and how soon they are found."""

import asyncio
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.retrieval_sets import write
from benchmarks.retriever_quality import Conditions
from benchmarks.retriever_server import Retriever, model_embedder
from evaluation.retrieval.beir import read
from evaluation.retrieval.documents import side_by_side
from evaluation.retrieval.measuring import latencies
from tandem.client import AsyncRetrieverClient, Upload
from tandem.v1 import retriever_service_pb2 as retriever

EXTRAPOLATED = 1_000_000
_STREAM_S, _BATCH, _STREAMS = 600.0, 100, 2
_FRESH, _VISIBLE_S, _SAMPLE_S = 30, 10.0, 0.5
_SYNTHETIC_PER_DOCUMENT, _SYNTHETIC_CHARACTERS = 100, 300
_WORDS = ("notice", "harbour", "storm", "policy", "claim", "river", "winter", "branch", "survey", "valley", "premium")


def synthetic(chunks: int, *, seed: int) -> Iterator[Upload]:
    """Yields documents of a hundred chunks each; a quarter is open to a group that the caller is not in."""
    source = Random(seed)  # noqa: S311
    for number in range(chunks // _SYNTHETIC_PER_DOCUMENT):
        parts = []
        for part in range(_SYNTHETIC_PER_DOCUMENT):
            text = f"{number} {part}"
            while len(text) < _SYNTHETIC_CHARACTERS:
                text += f" {source.choice(_WORDS)}"
            parts.append(text)
        yield Upload(f"s{number:06d}", "-", "\n\n".join(parts).encode(), "text/plain", groups=_groups(number))


def real(on: Conditions) -> Iterator[Upload]:
    """Yields abstracts, then medical answers: more than ten thousand chunks of them."""
    for name in ("scifact", "medquad"):
        benchmark = read(write(name, on.data, on.work / "sets" / name))
        for number, entry in enumerate(benchmark.entries()):
            data = entry.text.encode() or entry.title.encode()
            yield Upload(f"{name}-{number}", "-", data, "text/plain", entry.title[:512], groups=_groups(number))


def _groups(number: int) -> tuple[str, ...]:
    return ((), (), ("staff",), ("board",))[number % 4]


async def send(
    client: AsyncRetrieverClient, uploads: Iterator[Upload], *, label: str, most_chunks: int | None = None
) -> tuple[int, int]:
    """Sends documents in two streams at once until there are enough chunks; returns documents and chunks."""
    documents = chunks = 0
    told = time.perf_counter()

    def batches() -> Iterator[list[Upload]]:
        batch: list[Upload] = []
        for upload in uploads:
            batch.append(upload)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    dealt = batches()

    async def work() -> None:
        nonlocal documents, chunks, told
        while most_chunks is None or chunks < most_chunks:
            batch = next(dealt, None)
            if batch is None:
                return
            async for event in client.ingest(batch, timeout=_STREAM_S):
                if event.WhichOneof("event") == "result":
                    documents, chunks = documents + 1, chunks + event.result.num_chunks
                    if time.perf_counter() - told > 10:
                        told = time.perf_counter()
                        print(f"{label}: {documents} documents, {chunks} chunks", flush=True)

    await side_by_side(work, _STREAMS)
    return documents, chunks


async def ingestion(on: Conditions, *, chunks: int) -> dict[str, Any]:
    """Ingests so many real chunks into an empty retriever, through the real embedder, and leaves them there."""
    home = on.work / "real"
    home.mkdir(parents=True, exist_ok=True)
    for stale in list(home.glob("*milvus.db*")):
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink()
    async with model_embedder(home, on.embedder) as (address, embedder):
        server = Retriever(home, address, {"CREDENTIAL_FILE": str(home / "retriever.token")})
        await server.start()
        try:
            async with server.client(timeout_s=120) as client:
                peaks: dict[str, float] = {}
                watch = asyncio.create_task(_watch(server, peaks))
                started = time.perf_counter()
                documents, chunks = await send(client, real(on), label="ingestion", most_chunks=chunks)
                seconds = time.perf_counter() - started
                watch.cancel()
                stages = await asyncio.to_thread(_stages, server.metrics)
                fresh = await _freshness(client)
                model = await embedder.get_model()
        finally:
            await server.stop()
    rate = chunks / seconds
    return {
        "documents": documents,
        "chunks": chunks,
        "seconds": seconds,
        "chunks per second": rate,
        "stages": {stage: {**row, "ms per chunk": 1000 * row["seconds"] / chunks} for stage, row in stages.items()},
        "peak MiB": peaks,
        "file MiB": server.database.stat().st_size / 2**20,
        "extrapolated": {"chunks": EXTRAPOLATED, "hours": EXTRAPOLATED / rate / 3600},
        "freshness": fresh,
        "model": {"name": model.lineage.model, "precision": on.precision},
    }


async def _freshness(client: AsyncRetrieverClient) -> dict[str, Any]:
    """Ingests small documents one by one and looks for each at once, by a word that it alone has."""
    acknowledged, visible, at_first = [], [], 0
    for number in range(_FRESH):
        word = f"quixel{number}zat"
        upload = Upload(f"fresh-{number}", "-", f"The bulletin of {word}.".encode(), "text/plain", "Bulletin")
        begun = time.perf_counter()
        async for event in client.ingest([upload], timeout=60):
            if event.WhichOneof("event") == "result":
                acknowledged.append(time.perf_counter() - begun)
                seen = time.perf_counter()
                tries = await _until_found(client, word, upload.document_id)
                visible.append(time.perf_counter() - seen)
                at_first += tries == 1
    for number in range(_FRESH):
        await client.delete_document(f"fresh-{number}")
    return {
        "documents": _FRESH,
        "found by the first search": at_first,
        "sent to acknowledged, ms": latencies(acknowledged),
        "acknowledged to found, one search included, ms": latencies(visible),
    }


async def _until_found(client: AsyncRetrieverClient, word: str, document_id: str) -> int:
    """Searches until the document is found and returns how often; raises RuntimeError when it takes too long."""
    begun, tries = time.perf_counter(), 0
    while time.perf_counter() - begun < _VISIBLE_S:
        tries += 1
        found = await client.search(word, top_k=1, mode=retriever.SEARCH_MODE_SPARSE)
        if [passage.document_id for passage in found.passages] == [document_id]:
            return tries
    raise RuntimeError(f"{document_id} was acknowledged and not found within {_VISIBLE_S:.0f} s")


async def _watch(server: Retriever, peaks: dict[str, float]) -> None:
    """Notes the most memory of the service and of its engine until it is cancelled."""
    while True:
        for what, pid in (("retriever", server.pid), ("Milvus Lite", server.engine_pid)):
            peaks[what] = max(peaks.get(what, 0.0), _resident_mib(pid))
        await asyncio.sleep(_SAMPLE_S)


def _resident_mib(pid: int | None) -> float:
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _stages(metrics: str) -> dict[str, dict[str, float]]:
    """Returns how long the service was at each stage, summed over documents or batches, from its metrics."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20) as reply:
        text = reply.read().decode()
    found: dict[str, dict[str, float]] = {}
    for what, stage, value in re.findall(
        r'^tandem_retriever_ingest_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', text, re.MULTILINE
    ):
        found.setdefault(stage, {})["seconds" if what == "sum" else "times"] = float(value)
    return found
