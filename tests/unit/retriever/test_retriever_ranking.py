"""Searches of Milvus Lite that are cut off."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.retriever.backend.ranking import LiteRanking
from tandem.errors import Unavailable


@asynccontextmanager
async def hanging(folder: Path) -> AsyncIterator[tuple[LiteRanking, asyncio.Event]]:
    """Yields a ranking on an engine that never answers, and what tells that it was asked."""
    asked = asyncio.Event()

    async def search(request: bytes, context: Any) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    handler = grpc.unary_unary_rpc_method_handler(search)
    server = grpc.aio.server()
    server.add_registered_method_handlers("milvus.proto.milvus.MilvusService", {"Search": handler})
    uri = f"unix:{folder}/engine.sock"
    server.add_insecure_port(uri)
    await server.start()
    ranking = LiteRanking(uri, concurrency=1)
    try:
        yield ranking, asked
    finally:
        await ranking.close()
        await server.stop(None)


def search(ranking: LiteRanking) -> asyncio.Task[list[Any]]:
    options = {"data": ["words"], "anns_field": "sparse", "limit": 3, "output_fields": ["id"]}
    return asyncio.create_task(ranking.search("chunks", filter="", deadline=time.monotonic() + 10, **options))


async def test_a_search_whose_engine_is_given_up_is_unavailable_and_so_is_one_that_waits(tmp_path: Path) -> None:
    async with hanging(tmp_path) as (ranking, asked):
        first, second = search(ranking), search(ranking)
        await asked.wait()
        await ranking.close()
        for task in (first, second):
            with pytest.raises(Unavailable):
                await task


async def test_a_search_that_its_caller_leaves_is_cancelled(tmp_path: Path) -> None:
    async with hanging(tmp_path) as (ranking, asked):
        task = search(ranking)
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
