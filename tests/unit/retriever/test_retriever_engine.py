from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from services.retriever.domain import (
    INITIAL,
    Chunk,
    Condition,
    DocumentKey,
    EmbeddingModel,
    Filter,
    Header,
    Mode,
    NewChunk,
    NewDocument,
    StoredDocument,
    Weighted,
    Wish,
)
from services.retriever.engine import Defaults, Documents, Found, Searcher
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, Unavailable
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.retriever import DIMENSION, DOWN, MODEL, FakeEmbedder, FakeStore, embed

ALICE = Principal("alice", "halden", frozenset(), frozenset({"user"}))
LENA = Principal("lena", "halden", frozenset({"leads"}), frozenset({"user"}))
BRAM = Principal("bram", "brightwater", frozenset({"leads"}), frozenset({"user"}))


def new(document_id: str, *texts: str, tenant: str = "halden", version: str = "v1", **header: object) -> NewDocument:
    """Returns a document of one chunk for each text, a blank line between them."""
    whole = "\n\n".join(texts)
    document = StoredDocument(
        key=DocumentKey(tenant, document_id),
        header=Header(**{"source": "s.md", "media_type": "text/markdown", "title": "T", **header}),
        version=f"{document_id}-{version}",
        content_sha256="c" * 64,
        header_sha256="h" * 64,
        num_chunks=len(texts),
        num_characters=len(whole),
        update_time=1,
    )
    chunks, start = [], 0
    for text in texts:
        chunk = Chunk(start=start, end=start + len(text))
        chunks.append(NewChunk(chunk=chunk, content="T\n" + text, prefix_length=2, vector=embed(text)))
        start += len(text) + 2
    return NewDocument(document=document, text=whole, chunks={INITIAL: chunks})


class Room:
    def __init__(self, defaults: Defaults | None = None) -> None:
        self.store, self.embedder = FakeStore(), FakeEmbedder()
        self.registry = CollectorRegistry()
        metrics = RetrieverMetrics(self.registry)
        self.documents = Documents(store=self.store, metrics=metrics)
        self.searcher = Searcher(
            store=self.store,
            embedder=self.embedder,
            defaults=defaults or Defaults(),
            metrics=metrics,
            tracer=Telemetry("retriever").tracer,
        )

    async def search(self, query: str, principal: Principal = ALICE, **fields: object) -> Found:
        return await self.searcher.search(principal, Wish(query, **fields))


@pytest.fixture
def room() -> Room:
    return Room()


def ids(found: Found) -> list[str]:
    return [passage.document.key.document_id for passage in found.passages]


def texts(found: Found) -> list[str]:
    return [passage.text for passage in found.passages]


async def test_the_query_is_embedded_only_where_a_vector_is_needed_and_missing(room: Room) -> None:
    await room.store.put([new("a", "water damage"), new("b", "glass breakage")])
    assert ids(await room.search("glass", mode=Mode.SPARSE)) == ["b"]
    assert ids(await room.search("glass", vector=embed("glass breakage")))[0] == "b"
    assert room.embedder.batches == []
    found = await room.search("glass", mode=Mode.DENSE)
    assert (ids(found)[0], list(found.seconds)) == ("b", ["embed", "dense", "check"])
    assert room.embedder.batches == [["glass"]]


async def test_each_stage_is_timed_and_each_score_told(room: Room) -> None:
    room.embedder.reranks = True
    await room.store.put([new("a", "water damage", "glass breakage", "hail"), new("b", "glass of water")])
    found = await room.search("glass breakage", rerank=True, diversity=0.1, num_neighbors=1)
    stages = {"embed", "dense", "sparse", "check", "rerank", "diversify", "expand"}
    assert found.seconds.keys() == stages
    for stage in stages:
        labels = {"mode": "hybrid", "stage": stage}
        assert room.registry.get_sample_value("tandem_retriever_search_seconds_count", labels) == 1
    best = found.passages[0]
    assert (best.dense_rank, best.sparse_rank, best.rerank_score) == (1, 1, 1.0)
    assert best.dense_score == pytest.approx(1.0)
    assert best.sparse_score == 2
    assert found.snapshot_id == INITIAL


async def test_without_the_embedder_bm25_still_works(room: Room) -> None:
    await room.store.put([new("a", "water damage")])
    room.embedder.fault = Unavailable("no embedder")
    assert ids(await room.search("water", mode=Mode.SPARSE)) == ["a"]
    with pytest.raises(Unavailable):
        await room.search("water")


async def test_without_bm25_a_search_is_dense_and_says_so(room: Room) -> None:
    await room.store.put([new("a", "water damage")])
    room.store.bm25 = False
    found = await room.search("water damage")
    assert (ids(found), found.passages[0].sparse_rank) == (["a"], None)
    assert "sparse" not in found.seconds
    with pytest.raises(FailedPrecondition) as caught:
        await room.search("water", mode=Mode.SPARSE)
    assert caught.value.reason == "BM25_UNAVAILABLE"


async def test_a_vector_of_another_dimension_is_refused(room: Room) -> None:
    with pytest.raises(InvalidInput, match="query_vector"):
        await room.search("x", vector=[1.0])
    room.embedder.model = EmbeddingModel("other", "0" * 64, DIMENSION - 1)
    with pytest.raises(FailedPrecondition):
        await room.search("x")


@pytest.mark.parametrize("dimension", [DIMENSION, DIMENSION + 1])
async def test_a_vector_of_another_model_is_not_compared(room: Room, dimension: int) -> None:
    await room.store.put([new("a", "water damage"), new("b", "glass breakage")])
    await room.store.adopt_model(MODEL)
    misleading = embed("glass breakage", dimension)
    found = await room.search("water damage", vector=misleading, vector_model="0" * 64, mode=Mode.DENSE)
    assert ids(found)[0] == "a"
    assert "embed" in found.seconds
    assert room.embedder.batches == [["water damage"]]
    room.embedder.model = EmbeddingModel("other", "0" * 64, DIMENSION)
    with pytest.raises(FailedPrecondition) as caught:
        await room.search("water damage", vector=misleading, vector_model="0" * 64)
    assert caught.value.reason == "EMBEDDING_MODEL_MISMATCH"


async def test_a_vector_of_the_same_model_or_of_an_empty_collection_is_used(room: Room) -> None:
    given = {"vector": embed("glass breakage"), "mode": Mode.DENSE}
    assert ids(await room.search("water damage", vector_model="0" * 64, **given)) == []
    await room.store.put([new("a", "water damage"), new("b", "glass breakage")])
    await room.store.adopt_model(MODEL)
    assert ids(await room.search("water damage", vector_model=MODEL.sha256, **given))[0] == "b"
    assert room.embedder.batches == []


async def test_versions_that_are_not_live_are_not_returned(room: Room) -> None:
    await room.store.put([new("a", "water damage of old")])
    room.store.stage(new("a", "water damage of tomorrow", version="v2"))
    found = await room.search("water damage")
    assert texts(found) == ["water damage of old"]
    assert room.registry.get_sample_value("tandem_retriever_stale_hits_total") > 0


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_document_replaced_between_ranking_and_check_is_still_found(room: Room, mode: Mode) -> None:
    await room.store.put([new("a", "water damage old")])
    replacements = iter([new("a", "water damage new", version="v2")])

    def replace_it() -> None:
        for replacement in replacements:
            room.store.rows[replacement.document.key] = replacement.document
            room.store.stage(replacement)

    room.store.on_search = replace_it
    assert texts(await room.search("water damage", mode=mode)) == ["water damage new"]


async def test_many_stale_hits_do_not_push_live_ones_out(room: Room) -> None:
    for number in range(50):
        room.store.stage(new("a", "water water water", version=f"gone{number}"))
    await room.store.put([new("b", "water and some other words")])
    assert ids(await room.search("water", top_k=1)) == ["b"]


async def test_of_the_same_text_one_passage_is_returned_however_often_it_is_there(room: Room) -> None:
    copies = [new(f"copy{number:02}", "water damage") for number in range(60)]
    await room.store.put([*copies, new("z", "water damage and some more")])
    found = await room.search("water damage", mode=Mode.SPARSE, top_k=2)
    assert texts(found) == ["water damage", "water damage and some more"]
    kept = await room.search("water damage", mode=Mode.SPARSE, top_k=3, keep_duplicates=True)
    assert texts(kept) == ["water damage"] * 3


@pytest.mark.parametrize(
    "change", [{"groups": ("board",)}, {"attributes": {"kind": "old"}}, {"valid_until": 5}], ids=lambda c: next(iter(c))
)
async def test_the_row_decides_even_if_a_ranking_shows_too_much(room: Room, change: dict[str, object]) -> None:
    before = {"groups": ("leads",), "attributes": {"kind": "new"}}
    await room.store.put([new("a", "water", **before)])
    wanted = Filter(conditions=(Condition("kind", frozenset({"new"})),))
    assert ids(await room.search("water", LENA, filter=wanted)) == ["a"]
    key = DocumentKey("halden", "a")
    header = replace(room.store.rows[key].header, **change)
    room.store.rows[key] = replace(room.store.rows[key], header=header)
    assert ids(await room.search("water", LENA, filter=wanted)) == []


async def test_a_filter_narrows_and_never_widens(room: Room) -> None:
    await room.store.put(
        [
            new("a", "water one", attributes={"kind": "manual"}),
            new("b", "water two", media_type="text/plain"),
            new("c", "water three", groups=("leads",)),
            new("d", "water four", tenant="brightwater"),
        ]
    )
    everything = Filter(document_ids=frozenset({"a", "b", "c", "d"}))
    assert sorted(ids(await room.search("water", filter=everything))) == ["a", "b"]
    assert ids(await room.search("water", filter=Filter(media_types=frozenset({"text/plain"})))) == ["b"]
    assert ids(await room.search("water", filter=Filter(conditions=(Condition("kind"),)))) == ["a"]
    assert ids(await room.search("water", filter=Filter(conditions=(Condition("kind", excluded=True),)))) == ["b"]
    assert ids(await room.search("water", filter=Filter(updated_since=2))) == []


async def test_the_reranker_orders_the_best_and_is_asked_only_on_request() -> None:
    room = Room()
    await room.store.put([new(f"d{number}", "water " * (number + 1) + "words " * number) for number in range(30)])
    with pytest.raises(FailedPrecondition) as caught:
        await room.search("water", rerank=True)
    assert caught.value.reason == "RERANKER_NOT_CONFIGURED"
    room.embedder.reranks = True
    assert (await room.search("water")).passages[0].rerank_score is None
    found = await room.search("water", rerank=True, top_k=4)
    assert len(room.embedder.reranked[0]) == 16
    assert [passage.score for passage in found.passages] == [passage.rerank_score for passage in found.passages]
    assert [passage.score for passage in found.passages] == sorted(
        (passage.score for passage in found.passages), reverse=True
    )
    assert len((await room.search("water", rerank=True, top_k=20)).passages) == 20
    assert len(room.embedder.reranked[1]) == 30


async def test_what_a_search_leaves_open_is_as_configured() -> None:
    room = Room(Defaults(fusion=Weighted(1.0), rerank=True))
    room.embedder.reranks = True
    await room.store.put([new("a", "water damage"), new("b", "water")])
    assert (await room.search("water damage")).passages[0].rerank_score is not None
    found = await room.search("water damage", rerank=False)
    assert [passage.score for passage in found.passages] == [passage.dense_score for passage in found.passages]
    by_words = await room.search("water damage", rerank=False, fusion=Weighted(0.0))
    assert by_words.passages[0].score > 0.1 > by_words.passages[1].score


async def test_diversity_brings_what_says_something_else(room: Room) -> None:
    await room.store.put([new("a", "glass breakage excess"), new("b", "glass breakage excess two"), new("c", "glass")])
    plain = await room.search("glass breakage excess", mode=Mode.DENSE, top_k=2)
    diverse = await room.search("glass breakage excess", mode=Mode.DENSE, top_k=2, diversity=0.8)
    assert (ids(plain), ids(diverse)) == (["a", "b"], ["a", "c"])


async def test_neighbours_widen_a_passage_and_keep_what_was_found(room: Room) -> None:
    await room.store.put([new("a", "one", "two", "three water", "four", "five water"), new("b", "water")])
    found = await room.search("water", mode=Mode.SPARSE, num_neighbors=1)
    by_id = {passage.document.key.document_id: passage for passage in found.passages}
    assert len(found.passages) == 2
    assert by_id["a"].text == "two\n\nthree water\n\nfour\n\nfive water"
    assert by_id["a"].span == (5, 5 + len(by_id["a"].text))
    assert by_id["a"].chunk == Chunk(10, 21)
    assert (by_id["b"].text, by_id["b"].span) == ("water", None)


async def test_a_text_that_is_gone_leaves_the_passage_as_it_was_found(room: Room) -> None:
    await room.store.put([new("a", "one", "two water", "three")])
    room.store.texts.clear()
    found = await room.search("water", mode=Mode.SPARSE, num_neighbors=1)
    assert [(passage.text, passage.span) for passage in found.passages] == [("two water", None)]


async def test_a_snapshot_is_held_while_it_is_searched(room: Room) -> None:
    await room.store.put([new("a", "water")])
    held: list[str] = []
    room.store.on_search = lambda: held.extend(room.store.held)
    await room.search("water", mode=Mode.SPARSE, snapshot=INITIAL)
    assert (held, room.store.held) == ([INITIAL], [])
    with pytest.raises(NotFound):
        await room.search("water", snapshot="other")


async def test_get_page_and_delete_know_only_what_the_caller_may_see(room: Room) -> None:
    await room.store.put([new("a", "one"), new("b", "two", groups=("leads",)), new("c", "x", tenant="brightwater")])
    documents = room.documents
    assert (await documents.get(LENA, "b", with_text=True))[1] == "two"
    blocked: list[Callable[[], object]] = [
        lambda: documents.get(ALICE, "b", with_text=False),
        lambda: documents.delete(ALICE, "b"),
        lambda: documents.get(BRAM, "a", with_text=True),
        lambda: documents.delete(BRAM, "a"),
    ]
    for attempt in blocked:
        with pytest.raises(NotFound):
            await attempt()  # type: ignore[misc]
    page, more = await documents.page(LENA, after="", size=1)
    assert ([row.key.document_id for row in page], more) == (["a"], True)
    page, more = await documents.page(LENA, after="a", size=1)
    assert ([row.key.document_id for row in page], more) == (["b"], False)
    assert await documents.delete(LENA, "b") == 1
    assert room.registry.get_sample_value("tandem_retriever_documents_total", {"state": "deleted"}) == 1


async def test_a_store_that_is_down_is_said_to_be(room: Room) -> None:
    room.store.fault = DOWN
    with pytest.raises(Unavailable):
        await room.search("water", mode=Mode.SPARSE)
