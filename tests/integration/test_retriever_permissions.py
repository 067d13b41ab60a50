"""Who finds what, on real Milvus: random documents, callers and filters, judged by a reading of the contract.

The judge below shares no code with the retriever. Every search asks for everything that it may find, so that each
document is one decision: found or not.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.domain import (
    INITIAL,
    Chunk,
    Condition,
    DocumentKey,
    Filter,
    Header,
    Mode,
    NewChunk,
    NewDocument,
    SnapshotState,
    StoredDocument,
    View,
    Wish,
)
from services.retriever.engine import Defaults, Searcher
from services.retriever.metrics import RetrieverMetrics
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.retriever import FakeEmbedder

DIMENSION = 2
NUM_DOCUMENTS, NUM_SEARCHES = 600, 200
NUM_ROUNDS, NUM_CHANGES, NUM_SEARCHES_AFTER = 12, 25, 3
TENANTS = ["halden", "halden ", 'halden" or tenant != "', "hal/den", "日本"]
GROUPS = ["leads", "*", "g:*", '*"]) or true or array_contains_any(groups, ["*"', "leads%", "\\", "\n", "x" * 300]
KEYS = ["kind", "kind~1/~0.x", 'k"]', "v:kind", "é" * 64]
VALUES = ["", "a", "A", "a=", '"]) or true', "\\\\", "\x00", "ü" * 512]
TYPES = ["text/plain", "text/markdown", "application/pdf"]
NEXT = "next"


@dataclass(frozen=True)
class Paper:
    """Is a document as its editor thinks of it."""

    tenant: str
    name: str
    groups: frozenset[str]
    labels: dict[str, str]
    media_type: str
    since: int | None
    until: int | None
    updated: int


@dataclass(frozen=True)
class Asked:
    """Is a filter as its caller thinks of it: labels are key, values, excluded."""

    names: frozenset[str]
    media_types: frozenset[str]
    labels: tuple[tuple[str, frozenset[str], bool], ...]
    updated_since: int | None


def found_by(paper: Paper, caller: Principal, moment: int, asked: Asked) -> bool:
    """Judges one decision by the contract's words."""
    if paper.tenant != caller.tenant:
        return False
    if paper.groups and not paper.groups & caller.groups:
        return False
    if paper.since is not None and moment < paper.since:
        return False
    if paper.until is not None and moment >= paper.until:
        return False
    if asked.names and paper.name not in asked.names:
        return False
    if asked.media_types and paper.media_type not in asked.media_types:
        return False
    if asked.updated_since is not None and paper.updated < asked.updated_since:
        return False
    for key, values, excluded in asked.labels:
        has = key in paper.labels if not values else paper.labels.get(key) in values
        if has == excluded:
            return False
    return True


class World:
    """Deals out documents, callers and filters."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.versions = 0

    def some(self, things: list[str], most: int) -> frozenset[str]:
        return frozenset(self.random.sample(things, self.random.randint(0, most)))

    def moment(self) -> int | None:
        return self.random.choice([None, None, self.random.randint(0, 9)])

    def paper(self, tenant: str, name: str) -> Paper:
        since, until = self.moment(), self.moment()
        if since is not None and until is not None and since >= until:
            until = None
        return Paper(
            tenant=tenant,
            name=name,
            groups=self.some(GROUPS, 3),
            labels={key: self.random.choice(VALUES) for key in self.some(KEYS, 3)},
            media_type=self.random.choice(TYPES),
            since=since,
            until=until,
            updated=self.random.randint(0, 9),
        )

    def caller(self) -> Principal:
        return Principal("s", self.random.choice(TENANTS), self.some(GROUPS, 4))

    def asked(self, names: list[str]) -> Asked:
        chance = self.random.random
        conditions = [
            (self.random.choice(KEYS), self.some(VALUES, 3), chance() < 0.4) for _ in range(self.random.randint(0, 2))
        ]
        return Asked(
            names=frozenset(self.random.sample(names, self.random.randint(1, 60)) if chance() < 0.2 else ()),
            media_types=self.some(TYPES, 2) if chance() < 0.3 else frozenset(),
            labels=tuple(conditions) if chance() < 0.6 else (),
            updated_since=self.random.randint(0, 9) if chance() < 0.2 else None,
        )

    def document(self, paper: Paper, keys: list[str]) -> NewDocument:
        self.versions += 1
        text = f"word of {paper.name} in version {self.versions}"
        angle = self.random.random() * math.tau
        chunk = NewChunk(Chunk(0, len(text)), text, 0, [math.cos(angle), math.sin(angle)])
        header = Header(
            source="s",
            media_type=paper.media_type,
            title="T",
            groups=tuple(sorted(paper.groups)),
            valid_from=paper.since,
            valid_until=paper.until,
            attributes=paper.labels,
        )
        document = StoredDocument(
            key=DocumentKey(paper.tenant, paper.name),
            header=header,
            version=f"{self.versions:032x}",
            content_sha256="c" * 64,
            header_sha256="h" * 64,
            num_chunks=1,
            num_characters=len(text),
            update_time=paper.updated,
        )
        return NewDocument(document=document, text=text, chunks={key: [chunk] for key in keys})


def filter_of(asked: Asked) -> Filter:
    """Returns the filter that the servicer would make of it."""
    return Filter(
        document_ids=asked.names,
        media_types=asked.media_types,
        conditions=tuple(Condition(*condition) for condition in asked.labels),
        updated_since=asked.updated_since,
    )


@asynccontextmanager
async def opened(folder: Path) -> Any:
    settings = RetrieverConfig(milvus_uri=str(folder / "milvus.db"), dimension=DIMENSION)
    metrics = RetrieverMetrics((telemetry := Telemetry("retriever")).registry)
    store = MilvusStore(settings, metrics=metrics)
    await store.open()
    try:
        yield (
            store,
            Searcher(
                store=store, embedder=FakeEmbedder(), defaults=Defaults(), metrics=metrics, tracer=telemetry.tracer
            ),
        )
    finally:
        await store.close()


def batches(documents: list[NewDocument]) -> Iterator[list[NewDocument]]:
    return (documents[start : start + 200] for start in range(0, len(documents), 200))


async def test_no_caller_finds_too_much_or_too_little_whatever_it_asks(tmp_path: Path) -> None:
    world = World(seed=20261123)
    names = [f"doc-{number}" for number in range(NUM_DOCUMENTS // len(TENANTS))]
    papers = {(tenant, name): world.paper(tenant, name) for tenant in TENANTS for name in names}
    num_decisions = num_found = 0

    async with opened(tmp_path) as (store, searcher):
        second = replace(store.catalogue.live, key=NEXT, snapshot_id=NEXT, state=SnapshotState.BUILDING)
        await store.make(second)
        await store.change(lambda catalogue: catalogue.created(second))
        for some in batches([world.document(paper, [INITIAL, NEXT]) for paper in papers.values()]):
            await store.put(some)
        await store.change(lambda catalogue: catalogue.built(NEXT, 1))

        def judge(found: list[DocumentKey], caller: Principal, moment: int, asked: Asked) -> None:
            nonlocal num_decisions, num_found
            allowed = sorted(key for key, paper in papers.items() if found_by(paper, caller, moment, asked))
            assert sorted(found) == allowed, (caller, moment, asked)
            num_decisions += len(papers)
            num_found += len(allowed)

        async def rank(number: int) -> None:
            """Asks the store alone: what its expression lets through is all there is."""
            caller, moment, asked = world.caller(), world.random.randint(-1, 10), world.asked(names)
            view, key = View(caller, moment, filter_of(asked)), (INITIAL, NEXT)[number // 2 % 2]
            limit = len(papers) + 1
            if number % 2:
                hits = await store.search_dense([1.0, 0.0], view, snapshot=key, limit=limit)
            else:
                hits = await store.search_sparse("word", view, snapshot=key, limit=limit)
            judge([hit.key for hit in hits], caller, moment, asked)

        async def search(number: int) -> None:
            """Asks as a caller does."""
            caller, moment, asked = world.caller(), world.random.randint(-1, 10), world.asked(names)
            wish = Wish(
                query="word",
                vector=[0.0, 1.0],
                top_k=len(papers),
                mode=list(Mode)[number % 3],
                moment=moment,
                filter=filter_of(asked),
                keep_duplicates=True,
                snapshot=("", NEXT)[number % 2],
            )
            found = await searcher.search(caller, wish)
            judge([passage.document.key for passage in found.passages], caller, moment, asked)

        await asyncio.gather(*(rank(number) for number in range(NUM_SEARCHES)))
        before = num_decisions
        assert before >= 100_000
        assert num_found > 3_000, "the world is so strict that nothing is tried"

        for number in range(NUM_ROUNDS):
            if number == NUM_ROUNDS // 2:
                await store.change(lambda catalogue: catalogue.promoted(NEXT, 2))
            changed = [world.paper(*key) for key in world.random.sample(list(papers), NUM_CHANGES)]
            gone, kept = changed[:3], changed[3:]
            await store.put([world.document(paper, [INITIAL, NEXT]) for paper in kept])
            live = await store.live([DocumentKey(paper.tenant, paper.name) for paper in gone])
            for document in live.values():
                await store.remove(document)
            papers.update(((paper.tenant, paper.name), paper) for paper in kept)
            for paper in gone:
                papers.pop((paper.tenant, paper.name), None)
            await asyncio.gather(*(search(3 * number + one) for one in range(NUM_SEARCHES_AFTER)))
        assert num_decisions - before >= NUM_ROUNDS * NUM_SEARCHES_AFTER * len(papers)
