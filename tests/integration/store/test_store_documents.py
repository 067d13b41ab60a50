"""What the store port promises about documents, on Milvus Lite and on a Milvus 2.3.5 server."""

import asyncio
import random
from dataclasses import replace

import pytest

from services.retriever.backend.store import MilvusStore
from services.retriever.domain import INITIAL, DocumentKey
from tandem.errors import NotFound
from tests.fakes.retriever import embed
from tests.fakes.stored_documents import anew, document, principal, view

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = 'a "quoted" \\ back\\nslash\' % \n line, ünïcödé 漢字 \U0001f600 ] or id > ""'


async def test_a_document_comes_back_as_it_was_put(store: MilvusStore, tenant: str) -> None:
    new = document(
        f"{tenant} {HOSTILE}",
        "d",
        HOSTILE,
        "second",
        title=HOSTILE,
        groups=(HOSTILE, "g"),
        valid_from=5,
        attributes={HOSTILE[:40]: HOSTILE},
    )
    await store.put([new])
    key = new.document.key
    live = await store.live([key, DocumentKey(tenant, "missing")])
    assert list(live) == [key]
    cuts = live[key].cuts
    assert {name: cut.num_chunks for name, cut in cuts.items()} == {INITIAL: 2}
    assert live[key] == replace(new.document, cuts=cuts)
    assert await store.text(live[key]) == new.text
    (hit, _) = await store.search_dense(
        embed(f"{HOSTILE}\n{HOSTILE}"), view(key.tenant, "g"), snapshot=INITIAL, limit=9
    )
    assert (hit.key, hit.version, hit.text, hit.ordinal) == (key, new.document.version, HOSTILE, 0)
    assert hit.chunk == new.chunks[INITIAL][0].chunk


async def test_a_new_version_takes_the_old_ones_place(store: MilvusStore, tenant: str) -> None:
    old, new = document(tenant, "d", "old words", "more", "most"), document(tenant, "d", "new words")
    await store.put([old])
    await store.put([new])
    live = (await store.live([new.document.key]))[new.document.key]
    assert live.version == new.document.version
    assert await store.text(live) == "new words"
    with pytest.raises(NotFound):
        await store.text(old.document)
    hits = await store.search_dense(embed("words"), view(tenant), snapshot=INITIAL, limit=9)
    assert [hit.version for hit in hits] == [new.document.version]


async def test_a_removed_document_is_gone_and_may_come_back(store: MilvusStore, tenant: str) -> None:
    new, other = document(tenant, "d", "some words"), document(tenant, "other", "some words")
    await store.put([new, other])
    for _ in range(2):  # whoever removes what is gone has what it wants
        await store.remove(new.document)
        assert list(await store.live([new.document.key, other.document.key])) == [other.document.key]
        hits = await store.search_dense(embed("words"), view(tenant), snapshot=INITIAL, limit=9)
        assert [hit.key for hit in hits] == [other.document.key]
    with pytest.raises(NotFound):
        await store.text(new.document)
    again = anew(new)
    await store.put([again])
    assert (await store.live([new.document.key]))[new.document.key].version == again.document.version


async def test_one_put_takes_many_documents_and_pages_list_them_in_order(store: MilvusStore, tenant: str) -> None:
    ids = [f"d{number:04d}" for number in range(400)]
    random.Random(1).shuffle(ids)
    groups = {name: ("g",) if int(name[1:]) % 2 else () for name in ids}
    await store.put([document(tenant, name, f"text of {name}", groups=groups[name]) for name in ids[:300]])
    await store.put([document(tenant, name, f"text of {name}", groups=groups[name]) for name in ids[300:]])
    await store.put([document(f"{tenant}x", "d0000", "of another tenant")])
    for who in (principal(tenant, "g"), principal(tenant)):
        seen: list[str] = []
        while page := await store.page(who, after=seen[-1] if seen else "", limit=150):
            seen += [one.key.document_id for one in page]
        assert seen == sorted(name for name in ids if not groups[name] or who.groups)
    assert len(await store.live([DocumentKey(tenant, name) for name in ids])) == 400


async def test_long_texts_come_back_whole_and_in_ranges(store: MilvusStore, tenant: str) -> None:
    text = "".join(chr(0x1F600 + number % 64) for number in range(33_000))
    new = document(tenant, "d", text[:9000], text[9000:])
    new = replace(new, chunks={INITIAL: [replace(piece, content="short") for piece in new.chunks[INITIAL]]})
    await store.put([new])
    live = (await store.live([new.document.key]))[new.document.key]
    assert await store.text(live) == new.text
    gone = document(tenant, "gone", "never put").document
    got = await store.excerpts([(live, 15_990, 32_010), (live, 0, 5), (gone, 0, 3)])
    assert got == [new.text[15_990:32_010], new.text[:5], None]


async def test_a_document_that_is_being_replaced_is_there_at_every_read(store: MilvusStore, tenant: str) -> None:
    await store.put([document(tenant, f"d{number}", "some words") for number in range(20)])
    keys = [DocumentKey(tenant, f"d{number}") for number in range(20)]
    ended, num_reads = asyncio.Event(), 0

    async def replace_all() -> None:
        for _ in range(8):
            await store.put([document(tenant, f"d{number}", "some words") for number in range(20)])
        ended.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replace_all())
        while not ended.is_set():
            assert set(await store.live(keys)) == set(keys)
            assert len(await store.page(principal(tenant), after="", limit=100)) == 20
            num_reads += 1
    assert num_reads > 8
