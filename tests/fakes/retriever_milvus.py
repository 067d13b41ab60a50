"""Milvus in memory, and processes on it that can be killed between any two of its changes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from pymilvus.exceptions import MilvusException

from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.metrics import RetrieverMetrics
from tests.fakes.retriever import DIMENSION, words

Rows = dict[str, dict[str, Any]]


class Killed(Exception):
    """Is the end of a process."""


class FakeMilvus:
    """Is what survives: the rows of each collection."""

    def __init__(self) -> None:
        self.collections: dict[str, Rows] = {}


class FakeClient:
    """Implements what the retriever uses of MilvusClient for one process, which may make `budget` changes."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self._collections = milvus.collections
        self.budget: int | None = None
        self.dead = False

    def list_collections(self, *, timeout: float) -> list[str]:
        self._live()
        return list(self._collections)

    def create_collection(self, name: str, **_: Any) -> None:
        self._spend()
        self._collections[name] = {}

    def drop_collection(self, name: str, *, timeout: float) -> None:
        self._spend()
        del self._collections[name]

    def load_collection(self, name: str, *, timeout: float) -> None:
        self._live()

    def describe_collection(self, name: str, *, timeout: float) -> dict[str, Any]:
        return {"fields": [{"name": "dense", "params": {"dim": 32}}, {"name": "sparse"}]}

    def insert(self, name: str, rows: list[dict[str, Any]], *, timeout: float) -> None:
        self._spend()
        assert not any(row["id"] in self._collections[name] for row in rows), "a key is written twice"
        self._put(name, rows)

    def upsert(self, name: str, rows: list[dict[str, Any]], *, timeout: float) -> None:
        self.delete(name, ids=[row["id"] for row in rows], timeout=timeout)
        self.insert(name, rows, timeout=timeout)  # two changes, as on Milvus Lite

    def _put(self, name: str, rows: list[dict[str, Any]]) -> None:
        self._collections[name].update((row["id"], json.loads(json.dumps(row))) for row in rows)

    def delete(self, name: str, *, ids: list[str], timeout: float) -> None:
        self._spend()
        for row_id in ids:
            self._collections[name].pop(row_id, None)

    def get(self, name: str, *, ids: list[str], output_fields: list[str], timeout: float) -> list[dict[str, Any]]:
        self._live()
        rows = self._collections[name]
        return [rows[row_id] for row_id in ids if row_id in rows]

    def query(
        self, name: str, *, filter: str, output_fields: list[str], timeout: float, limit: int | None = None
    ) -> list[dict[str, Any]]:
        self._live()
        found = self._matching(name, filter)
        return [{"count(*)": len(found)}] if output_fields == ["count(*)"] else found[:limit]

    def search(
        self,
        name: str,
        *,
        data: list[Any],
        anns_field: str,
        filter: str,
        limit: int,
        output_fields: list[str],
        timeout: float,
        **_: Any,
    ) -> list[list[dict[str, Any]]]:
        self._live()
        score = _similarity if anns_field == "dense" else _words_in_common
        hits = [{"entity": row, "distance": score(row, data[0])} for row in self._matching(name, filter)]
        hits = sorted((hit for hit in hits if hit["distance"] > 0), key=lambda hit: -hit["distance"])
        return [hits[:limit]]

    def _matching(self, name: str, where: str) -> list[dict[str, Any]]:
        # The expressions that the retriever writes mean the same in Python.
        functions = {"array_contains_any": lambda held, wanted: not set(held).isdisjoint(wanted)}
        condition = compile(where, "filter", "eval")
        rows = self._collections[name]
        return [row for _, row in sorted(rows.items()) if eval(condition, functions, row)]

    def _spend(self) -> None:
        self._live()
        if self.budget is not None:
            if self.budget == 0:
                self.dead = True
                raise Killed
            self.budget -= 1

    def _live(self) -> None:
        if self.dead:
            raise Killed


def _similarity(row: dict[str, Any], vector: list[float]) -> float:
    return sum(a * b for a, b in zip(row["dense"], vector, strict=True))


def _words_in_common(row: dict[str, Any], query: str) -> float:
    return len(set(words(row["content"])) & set(words(query)))


class FakeConnection:
    """Implements MilvusConnection's calls on a client, giving others their turn before and after each."""

    embedded = True

    def __init__(self, client: FakeClient) -> None:
        self.client = client

    async def open(self, on_open: Callable[[Any], None]) -> None:
        """Connects."""
        on_open(self.client)

    async def close(self) -> None:
        """Disconnects."""

    def newest(self, client: FakeClient) -> FakeClient:
        """Returns the client: every read is of the newest."""
        return client

    async def call(self, do: Callable[[Any, float], Any]) -> Any:
        """Runs do."""
        await asyncio.sleep(0)
        try:
            return do(self.client, 1.0)
        finally:
            await asyncio.sleep(0)

    async def search(self, name: str, excuse: Callable[[Exception], Any], **options: Any) -> Any:
        """Ranks rows."""

        def do(client: Any, timeout: float) -> Any:
            try:
                return list(client.search(name, timeout=timeout, **options)[0])
            except MilvusException as error:
                return excuse(error)

        return await self.call(do)


def store_on(connection: Any, **settings: Any) -> MilvusStore:
    """Returns a store of vectors of 32 components on a connection, not yet open."""
    config = RetrieverConfig(milvus_uri="unused.db", dimension=DIMENSION, **settings)
    return MilvusStore(config, metrics=RetrieverMetrics(CollectorRegistry()), connection=connection)
