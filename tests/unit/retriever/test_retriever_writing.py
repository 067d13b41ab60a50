"""A write that its caller gives up still ends before the next one begins."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.fakes.retriever_milvus import FakeClient, FakeConnection, FakeMilvus, store_on
from tests.fakes.stored_documents import document


class Slow(FakeConnection):
    """Writes when its gate is open, as a thread does: whether or not anybody still waits."""

    def __init__(self) -> None:
        super().__init__(FakeClient(FakeMilvus()))
        self.gate = asyncio.Event()
        self.running = self.most = 0

    async def call(self, do: Callable[[Any, float], Any]) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            return await super().call(do)
        finally:
            self.running -= 1


async def test_a_write_that_is_cancelled_keeps_the_next_one_waiting() -> None:
    connection = Slow()
    store = store_on(connection, collection="c")
    await store.open()
    first, second = document("t", "d", "one"), document("t", "d", "two")
    given_up = asyncio.create_task(store.put([first]))
    await asyncio.sleep(0)
    given_up.cancel()
    after = asyncio.create_task(store.put([second]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not given_up.done()
    connection.gate.set()
    await asyncio.wait([given_up, after])
    assert given_up.cancelled()
    assert connection.most == 1
    (row,) = connection.client.get("c_documents", ids=["t/d"], output_fields=[], timeout=1)
    assert row["version"] == second.document.version
