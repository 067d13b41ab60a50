"""Documents that are kept are those that Milvus holds, whatever is written meanwhile and however late it lands."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from services.retriever.backend.known import KnownDocuments
from services.retriever.backend.store import MilvusStore
from services.retriever.domain import DocumentKey
from tandem.errors import Unavailable
from tests.fakes.retriever_milvus import FakeClient, FakeConnection, FakeMilvus, store_on
from tests.fakes.stored_documents import document

KEYS = [DocumentKey("t", f"d{number}") for number in range(4)]


class Busy(FakeConnection):
    """Answers after a while; some calls break off, and what they do happens later all the same.

    `held` holds what Milvus has held of each document, in order.
    """

    def __init__(self, source: random.Random) -> None:
        super().__init__(FakeClient(FakeMilvus()))
        self.source, self.late = source, list[asyncio.Task[None]]()
        self.breaks = 0.0
        self.num_reads = 0
        self.held: dict[DocumentKey, list[str | None]] = {key: [None] for key in KEYS}

    async def turns(self) -> None:
        for _ in range(self.source.randrange(6)):
            await asyncio.sleep(0)

    async def call(self, do: Callable[[Any, float], Any]) -> Any:
        await self.turns()
        if "live" not in do.__qualname__ and self.source.random() < self.breaks:
            self.late.append(asyncio.create_task(self.later(do)))
            raise Unavailable("the vector store cannot be reached")
        self.num_reads += "live" in do.__qualname__
        answer = self.done(do)
        await self.turns()
        return answer

    async def later(self, do: Callable[[Any, float], Any]) -> None:
        for _ in range(3):
            await self.turns()
        self.done(do)

    def done(self, do: Callable[[Any, float], Any]) -> Any:
        answer = do(self.client, 1.0)
        rows = self.client.get("c_documents", ids=[f"t/{key.document_id}" for key in KEYS], output_fields=[], timeout=1)
        versions = {row["id"]: row["version"] for row in rows}
        for key, held in self.held.items():
            if held[-1] != (now := versions.get(f"t/{key.document_id}")):
                held.append(now)
        return answer


async def opened(connection: Busy) -> MilvusStore:
    store = store_on(connection, collection="c")
    await store.open()
    return store


async def write(store: MilvusStore, source: random.Random) -> None:
    for _ in range(12):
        key = source.choice(KEYS)
        new = document("t", key.document_id, "text")
        try:
            if source.random() < 0.7:
                await store.put([new])
            else:
                await store.remove(new.document)
        except Unavailable:
            pass
        await asyncio.sleep(0)


async def read(store: MilvusStore, connection: Busy, source: random.Random) -> None:
    for _ in range(60):
        keys = source.sample(KEYS, 2)
        before = {key: len(connection.held[key]) - 1 for key in keys}
        live = await store.live(keys)
        for key in keys:
            version = live[key].version if key in live else None
            assert version in connection.held[key][before[key] :]
        await asyncio.sleep(0)


@pytest.mark.parametrize("breaks", [0.0, 0.2])
async def test_what_is_kept_is_what_milvus_holds(breaks: float) -> None:
    for seed in range(40):
        source = random.Random(seed)
        connection = Busy(source)
        store = await opened(connection)
        connection.breaks = breaks
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(write(store, source))
                group.create_task(read(store, connection, source))
        await asyncio.gather(*connection.late)
        connection.breaks = 0.0
        await read(store, connection, source)


async def test_what_is_kept_is_not_read_again_until_it_changes() -> None:
    connection = Busy(random.Random(1))
    store = await opened(connection)
    new = document("t", "d0", "text")
    await store.put([new])
    for _ in range(3):
        assert (await store.live(KEYS[:1]))[KEYS[0]].version == new.document.version
    assert connection.num_reads == 1
    await store.remove(new.document)
    assert await store.live(KEYS[:1]) == {}
    assert connection.num_reads == 2


def test_a_server_s_documents_are_not_kept() -> None:
    known = KnownDocuments(enabled=False)
    one = document("t", "d0", "text").document
    with known.reading(live="initial") as found:
        found["t/d0"] = one
    assert known.of(["t/d0"], live="initial") == {}


def test_no_more_is_kept_than_its_bound_and_nothing_of_another_live_snapshot() -> None:
    known = KnownDocuments(enabled=True)
    one = document("t", "d0", "text").document
    with known.reading(live="initial") as found:
        found.update({f"t/{number}": one for number in range(5_000)})
    assert len(known.of(found, live="initial")) == 4_096
    assert known.of(found, live="next") == {}
