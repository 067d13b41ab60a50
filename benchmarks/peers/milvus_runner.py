"""Searches a Milvus Lite file with pymilvus alone: what our service adds is what it costs beyond this.

    python -m benchmarks.peers.milvus_runner FILE

It reads loads as lines of JSON and answers each with one: {"mode": "dense", "concurrency": 1, "queries": [{"vector":
[...], "text": "..."}], "filter": "...", "top_k": 10} in, {"seconds": [...]} out.
"""

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.retriever_rows import collections, open_file

_FIELDS = ["id", "span_start", "span_end", "page", "prefix", "headings", "content"]
_TIMEOUT_S = 60.0


async def _search(client: Any, collection: str, load: dict[str, Any], query: dict[str, Any]) -> None:
    from pymilvus import AnnSearchRequest, RRFRanker

    top_k, where = load["top_k"], load["filter"]
    common = {"output_fields": _FIELDS, "timeout": _TIMEOUT_S}
    if load["mode"] == "hybrid":
        requests = [
            AnnSearchRequest(data=[query[what]], anns_field=field, param={}, limit=top_k, expr=where)
            for what, field in (("vector", "dense"), ("text", "sparse"))
        ]
        await client.hybrid_search(collection, requests, RRFRanker(), limit=top_k, **common)
        return
    data, field = (query["vector"], "dense") if load["mode"] == "dense" else (query["text"], "sparse")
    await client.search(collection, data=[data], anns_field=field, filter=where, limit=top_k, **common)


async def _timed(client: Any, collection: str, load: dict[str, Any]) -> list[float]:
    waiting, seconds = deque(load["queries"]), list[float]()

    async def work() -> None:
        while waiting:
            query = waiting.popleft()
            started = time.perf_counter()
            await _search(client, collection, load, query)
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(work() for _ in range(load["concurrency"])))
    return seconds


async def _main(file: Path) -> None:
    from pymilvus import AsyncMilvusClient

    blocking = open_file(file)  # the engine ends with this process
    collection = collections(blocking)[0]
    blocking.load_collection(collection, timeout=_TIMEOUT_S)
    client = AsyncMilvusClient(str(file))
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"seconds": await _timed(client, collection, json.loads(line))}), flush=True)
    await client.close()
    blocking.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
