"""What a write, a build and a promotion owe each other at the very moment where each can go wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.retriever.chunking import cut
from services.retriever.domain import Mode, Wish
from tandem.errors import FailedPrecondition
from tandem.security import Principal
from tests.fakes.retriever_life import LIMIT, Life
from tests.fakes.retriever_milvus import FakeMilvus, Killed

FAY = Principal("fay", "a", frozenset())
LONG = "\n\n".join(f"Shared paragraph {number} says one." for number in range(5))
SHORT = "Shared paragraph 0 says two."


@asynccontextmanager
async def alive(milvus: FakeMilvus, *, builds: bool = True, writes: bool = True) -> AsyncIterator[Life]:
    """Runs a retriever; what it is not to do waits for its embedder."""
    life = Life(milvus)
    for wanted, embedder in ((builds, life.builds), (writes, life.writes)):
        if not wanted:
            embedder.gate.clear()
    await life.start()
    try:
        yield life
    finally:
        await life.stop()


async def put(life: Life, **texts: str) -> None:
    async for _ in life.put(FAY, {name: (text, ()) for name, text in texts.items()}):
        pass


async def create(life: Life) -> None:
    await life.keeper.create("next", chunk_characters=None, analyzer=None)


async def asked(life: Life) -> None:
    """Waits until the builder waits for its embedder."""
    async with asyncio.timeout(20):
        await life.builds.asked.wait()


async def dead(life: Life) -> None:
    async with asyncio.timeout(20):
        while not life.client.dead:  # noqa: ASYNC110 -- nobody is told of a kill
            await asyncio.sleep(0)


async def build_killed(milvus: FakeMilvus, changes: int) -> None:
    """Has a document, and a build of it that ends with the process after so many changes."""
    async with alive(milvus, builds=False) as life:
        await put(life, d=LONG)
        await create(life)
        await asked(life)
        life.client.budget = changes
        life.builds.gate.set()
        await dead(life)


async def found(life: Life, snapshot: str = "") -> list[str]:
    wish = Wish(query="shared", top_k=100, mode=Mode.SPARSE, keep_duplicates=True, snapshot=snapshot)
    return sorted(passage.text for passage in (await life.searcher.search(FAY, wish)).passages)


def pieces(*texts: str) -> list[str]:
    return sorted(text[chunk.start : chunk.end] for text in texts for chunk in cut(text, [], limit=LIMIT))


def rows(milvus: FakeMilvus, life: Life) -> int:
    return len(milvus.collections[f"tandem_s_{life.store.catalogue.named('next').key}"])


async def test_a_document_that_is_replaced_while_it_is_built_in_has_its_new_chunks_alone() -> None:
    milvus = FakeMilvus()
    async with alive(milvus, builds=False) as life:
        await put(life, d=LONG)
        await create(life)
        await asked(life)
        await put(life, d=SHORT)
        life.builds.gate.set()
        await life.settled()
        assert await found(life, "next") == pieces(SHORT)
        assert rows(milvus, life) == len(pieces(SHORT))


async def test_a_document_that_was_prepared_before_a_snapshot_is_in_it() -> None:
    milvus = FakeMilvus()
    async with alive(milvus, writes=False) as life:
        writing = asyncio.create_task(put(life, d=LONG))
        await life.writes.asked.wait()
        await create(life)
        await life.settled()
        life.writes.gate.set()
        await writing
        assert await found(life, "next") == pieces(LONG)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("changes", range(7))
async def test_nothing_is_left_of_a_build_that_was_killed_when_its_document_goes(changes: int, replaced: bool) -> None:
    milvus = FakeMilvus()
    await build_killed(milvus, changes)
    async with alive(milvus, builds=False) as life:
        if replaced:
            await put(life, d=SHORT)
        else:
            await life.documents.delete(FAY, "d")
        life.builds.gate.set()
        await life.settled()
        left = pieces(SHORT) if replaced else []
        assert await found(life, "next") == left
        assert rows(milvus, life) == len(left)
        assert len(milvus.collections["tandem_meta"]) == 2  # the schema and the catalogue; nothing of a write


@pytest.mark.parametrize("changes", range(8))
async def test_a_replacement_that_was_killed_leaves_each_document_in_its_old_or_its_new_version(changes: int) -> None:
    milvus = FakeMilvus()
    async with alive(milvus) as life:
        await put(life, d=LONG, e="Shared paragraph of e.")
        old = await found(life)
        life.client.budget = changes
        writing = asyncio.create_task(put(life, d=SHORT))
        await dead(life)
        writing.cancel()
        await asyncio.wait([writing])
    async with alive(milvus) as life:
        texts = await found(life)
        assert texts in (old, [SHORT, "Shared paragraph of e."])
        assert len(milvus.collections["tandem_s_initial"]) == len(texts)
        assert len(milvus.collections["tandem_meta"]) == 2


@pytest.mark.parametrize("changes", range(8))
async def test_a_build_that_was_killed_leaves_its_documents_where_they_were_and_goes_on(changes: int) -> None:
    milvus = FakeMilvus()
    await build_killed(milvus, changes)
    async with alive(milvus) as life:
        assert await found(life) != []
        await life.settled()
        assert await found(life, "next") == pieces(LONG)


@pytest.mark.parametrize("changes", range(2))
async def test_a_promotion_that_was_killed_leaves_one_snapshot_live(changes: int) -> None:
    milvus = FakeMilvus()
    async with alive(milvus) as life:
        await put(life, d=LONG)
        await create(life)
        await life.settled()
        life.client.budget = changes
        with pytest.raises(Killed):
            await life.keeper.promote("next")
    async with alive(milvus) as life:
        assert life.store.catalogue.live.snapshot_id == ("next" if changes else "initial")
        await life.keeper.promote("next")
        assert await found(life) == pieces(LONG)
        assert len(milvus.collections["tandem_meta"]) == 2


@pytest.mark.parametrize("changes", range(2))
async def test_a_creation_that_was_killed_leaves_no_collection(changes: int) -> None:
    milvus = FakeMilvus()
    async with alive(milvus) as life:
        await put(life, d=LONG)
        life.client.budget = changes
        with pytest.raises(Killed):
            await create(life)
    async with alive(milvus) as life:
        assert {name for name in milvus.collections if "_s_" in name} == {"tandem_s_initial"}
        await create(life)
        await life.settled()
        assert await found(life, "next") == pieces(LONG)


async def test_a_snapshot_that_is_half_built_is_not_served_before_or_after_a_kill() -> None:
    milvus = FakeMilvus()
    async with alive(milvus, builds=False) as life:
        await put(life, d=LONG)
        await create(life)
        await asked(life)
        await _refused(life)
    async with alive(milvus, builds=False) as life:
        await asked(life)
        await _refused(life)
        life.builds.gate.set()
        await life.settled()
        await life.keeper.promote("next")
        assert await found(life) == pieces(LONG)


async def _refused(life: Life) -> None:
    before = await found(life)
    for refused in (life.keeper.promote("next"), found(life, "next")):
        with pytest.raises(FailedPrecondition) as caught:
            await refused
        assert caught.value.reason == "SNAPSHOT_NOT_READY"
    assert await found(life) == before != []
