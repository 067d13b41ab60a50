"""What the store port promises about rankings, on Milvus Lite and on a Milvus 2.3.5 server."""

import asyncio
import logging
import math
import random
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from services.retriever.backend.store import MilvusStore
from services.retriever.domain import INITIAL, Condition, Filter, Mode, NewDocument, Vector, View, Wish
from services.retriever.engine import Defaults, Searcher
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition
from tandem.telemetry import Telemetry
from tests.fakes.retriever import FakeEmbedder, embed
from tests.fakes.stored_documents import NOW, anew, document, principal, random_vectors, view
from tests.fakes.stores import Subject, opened

pytestmark = pytest.mark.asyncio(loop_scope="session")


def cosine(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


async def test_dense_ranking_is_that_of_brute_force(store: MilvusStore, tenant: str) -> None:
    vectors = random_vectors(400, seed=2)
    documents = [
        document(tenant, f"d{first:03d}", *["text"] * 4, vectors=vectors[first : first + 4])
        for first in range(0, 400, 4)
    ]
    await store.put(documents)
    for query in random_vectors(5, seed=3):
        hits = await store.search_dense(query, view(tenant), snapshot=INITIAL, limit=50)
        order = sorted(range(400), key=lambda number: -cosine(query, vectors[number]))[:50]
        assert [int(hit.key.document_id[1:]) + hit.ordinal for hit in hits] == order
        assert [hit.score for hit in hits] == pytest.approx([cosine(query, vectors[n]) for n in order], abs=1e-4)
    stored = await store.vectors([hit.row_id for hit in hits], snapshot=INITIAL)
    assert [cosine(stored[hit.row_id], vectors[n]) for hit, n in zip(hits, order, strict=True)] == pytest.approx(
        [1] * 50
    )


def world(tenant: str, source: random.Random) -> list[NewDocument]:
    kinds = ["text/plain", "text/html", 'odd/"kind"']
    return [
        document(
            tenant,
            f"d{number}",
            "text",
            media_type=source.choice(kinds),
            groups=tuple(source.sample(["g", "h", "ü %"], source.choice([0, 0, 1, 2]))),
            valid_from=source.choice([None, NOW - 5, NOW, NOW + 5]),
            valid_until=source.choice([None, None, NOW, NOW + 5]),
            attributes=dict(source.sample([("lang", "de"), ("lang", "en"), ("year", "19 99"), ("k=v", "")], 2)),
            update_time=NOW - number,
        )
        for number in range(60)
    ]


def random_filter(source: random.Random) -> Filter:
    keys = ["lang", "year", "k=v", "none"]
    values = ["de", "en", "19 99", "", "de en"]
    conditions = tuple(
        Condition(
            source.choice(keys), frozenset(source.sample(values, source.choice([0, 1, 2]))), source.random() < 0.4
        )
        for _ in range(source.choice([0, 1, 1, 2]))
    )
    return Filter(
        document_ids=frozenset(source.sample([f"d{n}" for n in range(60)], source.choice([0, 0, 0, 30]))),
        media_types=frozenset(source.sample(["text/plain", 'odd/"kind"', "x"], source.choice([0, 0, 1, 2]))),
        conditions=conditions,
        updated_since=source.choice([None, None, NOW - 40]),
    )


async def test_what_a_view_shows_is_found_and_nothing_else(store: MilvusStore, tenant: str) -> None:
    source = random.Random(4)
    documents = world(tenant, source)
    await store.put(documents)
    await store.put([document(f"{tenant}-", "d1", "text"), document(tenant.upper(), "d1", "text")])
    sizes = set()
    for _ in range(60):
        who = principal(tenant, *source.sample(["g", "h", "ü %", "*"], source.choice([0, 1, 2])))
        seen = View(who, source.choice([NOW, NOW - 6, NOW + 5]), random_filter(source))
        hits = await store.search_dense(embed("text"), seen, snapshot=INITIAL, limit=100)
        wanted = {one.document.key for one in documents if seen.shows(one.document)}
        assert {hit.key for hit in hits} == wanted
        assert len(hits) == len(wanted)
        sizes.add(len(wanted))
    assert len(sizes) > 10


async def test_the_next_search_follows_a_change_of_who_may_see(store: MilvusStore, tenant: str) -> None:
    new = document(tenant, "d", "text", groups=("g",))
    for groups in (("g",), ("h",), (), ("h", "g")):
        new = anew(new, groups=groups)
        await store.put([new])
        for asking in ((), ("g",), ("h",)):
            hits = await store.search_dense(embed("text"), view(tenant, *asking), snapshot=INITIAL, limit=9)
            assert bool(hits) == new.document.open_to(principal(tenant, *asking))


async def test_neighbours_are_those_of_the_version(store: MilvusStore, tenant: str) -> None:
    new = document(tenant, "d", "one", "two", "three", "four")
    await store.put([document(tenant, "d", *["older"] * 9)])
    await store.put([new])
    hits = await store.search_dense(embed("d one"), view(tenant), snapshot=INITIAL, limit=9)
    near = await store.neighbours(hits, distance=1, snapshot=INITIAL)
    for hit in hits:
        ordinals = [number for number in range(4) if abs(number - hit.ordinal) <= 1]
        assert [(one.ordinal, one.start) for one in near[hit.row_id]] == [
            (number, new.chunks[INITIAL][number].chunk.start) for number in ordinals
        ]


async def test_words_are_ranked_where_milvus_can(
    subject: Subject, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert subject.store.bm25 == (subject.name == "lite")
    if subject.store.bm25:
        await subject.store.put([document(tenant, "a", "a yellow house"), document(tenant, "b", "a green tree")])
        hits = await subject.store.search_sparse("houses", view(tenant), snapshot=INITIAL, limit=9)
        assert [hit.key.document_id for hit in hits] == ["a"]
        return
    with caplog.at_level(logging.WARNING):
        async with opened({**subject.settings, "consistency": "Strong"}) as second:
            assert not second.bm25
    assert "does not rank by BM25" in caplog.text


async def test_a_hybrid_search_is_dense_alone_where_words_cannot_be_ranked(subject: Subject, tenant: str) -> None:
    searcher = Searcher(
        store=subject.store,
        embedder=FakeEmbedder(),
        defaults=Defaults(),
        metrics=RetrieverMetrics(CollectorRegistry()),
        tracer=Telemetry("retriever").tracer,
    )
    await subject.store.put([document(tenant, "a", "a yellow house"), document(tenant, "b", "a green tree")])
    found = await searcher.search(principal(tenant), Wish("yellow house", mode=Mode.HYBRID))
    assert found.passages[0].document.key.document_id == "a"
    assert ("sparse" in found.seconds) == subject.store.bm25
    if not subject.store.bm25:
        with pytest.raises(FailedPrecondition) as caught:
            await searcher.search(principal(tenant), Wish("yellow", mode=Mode.SPARSE))
        assert caught.value.reason == "BM25_UNAVAILABLE"


@pytest.mark.parametrize("mode", list(Mode))
async def test_searches_beside_the_first_document_find_nothing_or_it(
    subject: Subject, tenant: str, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    if mode is Mode.SPARSE and not subject.store.bm25:
        pytest.skip("this Milvus does not rank by BM25")
    name = f"empty{mode.value}"
    snapshot = replace(subject.store.catalogue.live, key=name, snapshot_id=name)
    await subject.store.make(snapshot)
    await subject.store.change(lambda catalogue: catalogue.created(snapshot))
    store, seen = subject.store, View(principal(tenant), NOW)
    new = document(tenant, "d", "a yellow house")
    new = replace(new, chunks={one.key: new.chunks[INITIAL] for one in store.catalogue.written})

    async def found() -> list[str]:
        hits = []
        if mode is not Mode.SPARSE:
            hits += await store.search_dense(embed("house"), seen, snapshot=name, limit=9)
        if mode is not Mode.DENSE and store.bm25:
            hits += await store.search_sparse("house", seen, snapshot=name, limit=9)
        return sorted({hit.key.document_id for hit in hits})

    try:
        assert await found() == []
        writing = asyncio.create_task(store.put([new]))
        while not writing.done():
            assert await found() in ([], ["d"])
        await writing
        assert await found() == ["d"]
        await store.remove(new.document)
        assert await found() == []
    finally:
        await store.change(lambda catalogue: catalogue.dropped(name, NOW))
        assert await store.drop(store.catalogue.snapshots[name])
        await store.change(lambda catalogue: catalogue.without(name))
    assert "refused" not in caplog.text
