from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.retriever.domain import (
    INITIAL,
    Chunk,
    DocumentKey,
    EmbeddingModel,
    Header,
    Hit,
    Mode,
    NewChunk,
    NewDocument,
    StoredDocument,
)
from services.retriever.engine import RRF_K, Engine, Found, fuse
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.retriever import DIMENSION, DOWN, FakeEmbedder, FakeStore, embed

ALICE = Principal("alice", "halden", frozenset(), frozenset({"user"}))
LENA = Principal("lena", "halden", frozenset({"leads"}), frozenset({"user"}))
BRAM = Principal("bram", "brightwater", frozenset({"leads"}), frozenset({"user"}))


def new(document_id: str, text: str, *, tenant: str = "halden", version: str = "v1", **header: object) -> NewDocument:
    document = StoredDocument(
        key=DocumentKey(tenant, document_id),
        header=Header(**{"source": "s.md", "media_type": "text/markdown", "title": "T", **header}),
        version=f"{document_id}-{version}",
        content_sha256="c" * 64,
        header_sha256="h" * 64,
        num_chunks=1,
        num_characters=len(text),
        update_time=1,
    )
    chunk = NewChunk(chunk=Chunk(start=0, end=len(text)), content="T\n" + text, prefix_length=2, vector=embed(text))
    return NewDocument(document=document, text=text, chunks={INITIAL: [chunk]})


class Room:
    def __init__(self) -> None:
        self.store, self.embedder = FakeStore(), FakeEmbedder()
        self.registry = CollectorRegistry()
        self.engine = Engine(
            store=self.store,
            embedder=self.embedder,
            dimension=DIMENSION,
            metrics=RetrieverMetrics(self.registry),
            tracer=Telemetry("retriever").tracer,
        )

    async def search(self, query: str, principal: Principal = ALICE, **fields: object) -> Found:
        settings = {"vector": [], "top_k": 5, "mode": Mode.HYBRID, "moment": None, **fields}
        return await self.engine.search(principal, query=query, **settings)


@pytest.fixture
def room() -> Room:
    return Room()


def ids(found: Found) -> list[str]:
    return [passage.document.key.document_id for passage in found.passages]


def hit(row_id: str) -> Hit:
    return Hit(row_id=row_id, key=DocumentKey("t", row_id), version="v", chunk=Chunk(0, 1), text="x")


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_fusion_scores_by_reciprocal_rank(dense: list[str], sparse: list[str]) -> None:
    fused = fuse([hit(row) for row in dense], [hit(row) for row in sparse])
    assert {item.hit.row_id for item in fused} == {*dense, *sparse}
    assert [item.score for item in fused] == sorted((item.score for item in fused), reverse=True)
    for item in fused:
        row = item.hit.row_id
        assert item.dense_rank == (dense.index(row) + 1 if row in dense else None)
        assert item.sparse_rank == (sparse.index(row) + 1 if row in sparse else None)
        expected = sum(1 / (RRF_K + ranking.index(row) + 1) for ranking in (dense, sparse) if row in ranking)
        assert item.score == pytest.approx(expected)


async def test_the_query_is_embedded_only_where_a_vector_is_needed_and_missing(room: Room) -> None:
    await room.store.put([new("a", "water damage"), new("b", "glass breakage")])
    assert ids(await room.search("glass", mode=Mode.SPARSE)) == ["b"]
    assert ids(await room.search("glass", vector=embed("glass breakage")))[0] == "b"
    assert room.embedder.batches == []
    found = await room.search("glass", mode=Mode.DENSE)
    assert (ids(found)[0], list(found.seconds)) == ("b", ["embed", "search"])
    assert room.embedder.batches == [["glass"]]


async def test_without_the_embedder_bm25_still_works(room: Room) -> None:
    await room.store.put([new("a", "water damage")])
    room.embedder.fault = Unavailable("no embedder")
    assert ids(await room.search("water", mode=Mode.SPARSE)) == ["a"]
    with pytest.raises(Unavailable):
        await room.search("water")


async def test_a_vector_of_another_dimension_or_model_is_refused(room: Room) -> None:
    with pytest.raises(InvalidInput, match="query_vector"):
        await room.search("x", vector=[1.0])
    await room.store.adopt_model(room.embedder.model)
    room.embedder.model = EmbeddingModel("other", "0" * 64, DIMENSION)
    with pytest.raises(FailedPrecondition):
        await room.search("x")


async def test_versions_that_are_not_live_are_not_returned(room: Room) -> None:
    await room.store.put([new("a", "water damage of old")])
    room.store.stage(new("a", "water damage of tomorrow", version="v2"))
    found = await room.search("water damage")
    assert [passage.text for passage in found.passages] == ["water damage of old"]
    assert room.registry.get_sample_value("tandem_retriever_stale_hits_total") > 0


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_document_replaced_between_ranking_and_check_is_still_found(room: Room, mode: Mode) -> None:
    await room.store.put([new("a", "water damage old")])
    replacements = iter([new("a", "water damage new", version="v2")])

    def replace() -> None:
        for replacement in replacements:
            room.store.rows[replacement.document.key] = replacement.document
            room.store.stage(replacement)

    room.store.on_search = replace
    found = await room.search("water damage", mode=mode)
    assert [passage.text for passage in found.passages] == ["water damage new"]


async def test_many_stale_hits_do_not_push_live_ones_out(room: Room) -> None:
    for number in range(50):
        room.store.stage(new("a", "water water water", version=f"gone{number}"))
    await room.store.put([new("b", "water and some other words")])
    assert ids(await room.search("water", top_k=1)) == ["b"]


async def test_the_row_decides_even_if_a_ranking_shows_too_much(room: Room) -> None:
    await room.store.put([new("a", "water", groups=("leads",))])
    key = DocumentKey("halden", "a")
    room.store.rows[key] = new("a", "water", groups=("board",)).document
    assert ids(await room.search("water", LENA)) == []


async def test_get_page_and_delete_know_only_what_the_caller_may_see(room: Room) -> None:
    await room.store.put([new("a", "one"), new("b", "two", groups=("leads",)), new("c", "x", tenant="brightwater")])
    engine = room.engine
    assert (await engine.get(LENA, "b", with_text=True))[1] == "two"
    blocked: list[Callable[[], object]] = [
        lambda: engine.get(ALICE, "b", with_text=False),
        lambda: engine.delete(ALICE, "b"),
        lambda: engine.get(BRAM, "a", with_text=True),
        lambda: engine.delete(BRAM, "a"),
    ]
    for attempt in blocked:
        with pytest.raises(NotFound):
            await attempt()  # type: ignore[misc]
    page, more = await engine.page(LENA, after="", size=1)
    assert ([row.key.document_id for row in page], more) == (["a"], True)
    page, more = await engine.page(LENA, after="a", size=1)
    assert ([row.key.document_id for row in page], more) == (["b"], False)
    assert await engine.delete(LENA, "b") == 1
    assert room.registry.get_sample_value("tandem_retriever_documents_total", {"state": "deleted"}) == 1


async def test_a_store_that_is_down_is_said_to_be(room: Room) -> None:
    room.store.fault = DOWN
    with pytest.raises(Unavailable):
        await room.search("water", mode=Mode.SPARSE)
