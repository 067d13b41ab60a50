"""What rankings make of Milvus Lite's ways of counting words."""

from typing import Any

import pytest
from pymilvus.exceptions import MilvusException

from services.retriever.backend import reading
from services.retriever.backend.store import MilvusStore
from services.retriever.domain import INITIAL
from tandem.errors import Unavailable
from tests.fakes.retriever_milvus import FakeClient, FakeConnection, FakeMilvus, store_on
from tests.fakes.stored_documents import document, view

NEVER_COUNTED = 'Assert "element.val" => Invalid sparse row: NaN or Inf value at Utils.h:270'
COUNTING = 'Assert "element.val >= 0" => Invalid sparse row: negative value at Utils.h:271'


class Refusing(FakeClient):
    """Refuses some searches."""

    def __init__(self) -> None:
        super().__init__(FakeMilvus())
        self.refusals: list[str] = []

    def search(self, name: str, **options: Any) -> list[list[dict[str, Any]]]:
        if self.refusals:
            raise MilvusException(code=2000, message=self.refusals.pop())
        return super().search(name, **options)


async def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[MilvusStore, Refusing]:
    monkeypatch.setattr(reading, "_RECOUNT_S", 0.0)
    client = Refusing()
    store = store_on(FakeConnection(client))
    await store.open()
    await store.put([document("t", "d", "some words")])
    return store, client


async def ranked(store: MilvusStore) -> int:
    return len(await store.search_sparse("words", view("t"), snapshot=INITIAL, limit=9))


async def test_a_ranking_that_met_a_removal_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, client = await opened(monkeypatch)
    client.refusals = [COUNTING] * 2
    assert await ranked(store) == 1
    client.refusals = [COUNTING] * 99
    with pytest.raises(Unavailable):
        await ranked(store)


async def test_a_collection_whose_words_were_never_counted_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    store, client = await opened(monkeypatch)
    client.refusals = [NEVER_COUNTED]
    assert await ranked(store) == 0


async def test_another_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store, client = await opened(monkeypatch)
    client.refusals = ["no such field"]
    with pytest.raises(MilvusException):
        await ranked(store)
