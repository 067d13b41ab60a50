"""A store, embedders and a parser without Milvus, weights or processes for the retriever's tests."""

import asyncio
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from services.retriever.domain import (
    INITIAL,
    Catalogue,
    Chunk,
    DocumentKey,
    Embedded,
    EmbeddingModel,
    Hit,
    Near,
    NewChunk,
    NewDocument,
    ParsedDocument,
    Snapshot,
    SnapshotState,
    StoredDocument,
    Unreadable,
    Vector,
    View,
    load_outline,
)
from services.retriever.ingest.worker import answer_to
from tandem.errors import FailedPrecondition, NotFound, TandemError, Unavailable
from tandem.rpc.status import to_grpc
from tandem.security import Principal
from tandem.v1 import common_pb2 as common
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc

DIMENSION = 32
MODEL = EmbeddingModel(name="bag-of-words", sha256="ab" * 32, dimension=DIMENSION)
SNAPSHOT = Snapshot(
    key=INITIAL,
    snapshot_id=INITIAL,
    chunk_characters=200,
    analyzer="english",
    dimension=DIMENSION,
    create_time=0,
    state=SnapshotState.LIVE,
)
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case."""
    return _WORD.findall(text.lower())


def embed(text: str, dimension: int = DIMENSION) -> list[float]:
    """Returns a bag of hashed words of unit length."""
    vector = [0.0] * dimension
    for word in words(text) or [""]:
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % dimension] += 1.0
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector]


def overlaps(query: str, texts: Sequence[str]) -> list[float]:
    """Returns for each text the share of its words that the query holds."""
    wanted = set(words(query))
    return [sum(word in wanted for word in words(text)) / max(1, len(words(text))) for text in texts]


class FakeEmbedder:
    """Implements the Embedder port by `embed`; fails with `fault` while it is set, waits while `gate` is clear."""

    def __init__(self, *, model: EmbeddingModel = MODEL) -> None:
        self.model = model
        self.fault: TandemError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.reranks = False
        self.reranked: list[list[str]] = []

    async def embed(self, texts: Sequence[str], *, model: EmbeddingModel | None = None) -> Embedded:
        """Returns a vector for each text."""
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if model not in (None, self.model):
            raise FailedPrecondition("another model is served", reason="EMBEDDING_MODEL_MISMATCH")
        self.batches.append(list(texts))
        return Embedded(vectors=[embed(text, self.model.dimension) for text in texts], model=self.model)

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Scores by `overlaps`; refuses unless `reranks` is set."""
        if not self.reranks:
            raise FailedPrecondition("no reranker", reason="RERANKER_NOT_CONFIGURED")
        self.reranked.append(list(texts))
        return overlaps(query, texts)


class FakeParser:
    """Implements the Parser port in this process; the content "reject me" is rejected."""

    def __init__(self, *, limit: int = 200) -> None:
        self.limit = limit
        self.parsed: list[bytes] = []
        self.slow: dict[bytes, asyncio.Event] = {}

    async def parse(self, data: bytes, media_type: str) -> ParsedDocument:
        """Returns text and chunks; content with an entry in `slow` waits for its event."""
        if data in self.slow:
            await self.slow[data].wait()
        self.parsed.append(data)
        if data == b"reject me":
            raise Unreadable("MALFORMED", "the document asks to be rejected")
        request = json.dumps({"media_type": media_type, "limit": self.limit, "max_characters": 100_000})
        answer = answer_to(request.encode() + b"\n" + data)
        if "reason" in answer:
            raise Unreadable(answer["reason"], answer["message"])
        chunks = tuple(Chunk(start=c[0], end=c[1], headings=tuple(c[2]), page=c[3]) for c in answer["chunks"])
        blocks = load_outline(answer["outline"], length=len(answer["text"]))
        return ParsedDocument(text=answer["text"], chunks=chunks, title=answer["title"], blocks=blocks)


class FakeStore:
    """Implements the Store port in memory: versions are kept apart as in Milvus, and `live` decides.

    `on_search` runs after each ranking is made, so that a test can change the store between ranking and check.
    """

    def __init__(self) -> None:
        self.rows: dict[DocumentKey, StoredDocument] = {}
        self.chunks: dict[str, tuple[StoredDocument, NewChunk]] = {}
        self.bm25 = True
        self.held: list[str] = []
        self.texts: dict[tuple[DocumentKey, str], str] = {}
        self.catalogue = Catalogue({INITIAL: SNAPSHOT}, INITIAL)
        self.fault: TandemError | None = None
        self.writes: list[list[str]] = []
        self.on_search: Callable[[], None] = lambda: None

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions."""
        self._check()
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def put(self, documents: Sequence[NewDocument]) -> None:
        """Writes and makes live."""
        self._check()
        assert len({new.document.key for new in documents}) == len(documents)
        self.writes.append([new.document.key.document_id for new in documents])
        for new in documents:
            old = self.rows.get(new.document.key)
            self.stage(new)
            self.rows[new.document.key] = new.document
            if old is not None:
                self._erase(old)

    def stage(self, new: NewDocument) -> None:
        """Writes chunks and text of a version that is not live."""
        for number, chunk in enumerate(new.chunks[INITIAL]):
            self.chunks[f"{new.document.key}/{new.document.version}/{number:06d}"] = (new.document, chunk)
        self.texts[new.document.key, new.document.version] = new.text

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document."""
        self._check()
        self.rows.pop(document.key, None)
        self._erase(document)

    async def page(self, principal: Principal, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns a page."""
        self._check()
        rows = [row for row in self.rows.values() if row.open_to(principal) and row.key.document_id > after]
        return sorted(rows, key=lambda row: row.key.document_id)[:limit]

    async def text(self, document: StoredDocument) -> str:
        """Returns the text of a version."""
        try:
            return self.texts[document.key, document.version]
        except KeyError:
            raise NotFound("gone") from None

    @contextmanager
    def hold(self, snapshot_id: str) -> Iterator[Snapshot]:
        """Knows one snapshot; `held` names those that are being searched."""
        if snapshot_id not in ("", INITIAL):
            raise NotFound("no such snapshot")
        self.held.append(INITIAL)
        try:
            yield self.catalogue.live
        finally:
            self.held.pop()

    async def search_dense(self, vector: Vector, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks by the scalar product."""
        return self._rank(lambda c: sum(a * b for a, b in zip(vector, c.vector, strict=True)), view, limit=limit)

    async def search_sparse(self, query: str, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks by the number of words in common."""
        wanted = set(words(query))
        return self._rank(lambda c: len(wanted & set(words(c.content))), view, limit=limit)

    async def vectors(self, row_ids: Sequence[str], *, snapshot: str) -> dict[str, Vector]:
        """Returns vectors."""
        return {row_id: self.chunks[row_id][1].vector for row_id in row_ids if row_id in self.chunks}

    async def neighbours(self, hits: Sequence[Hit], *, distance: int, snapshot: str) -> dict[str, list[Near]]:
        """Returns what lies around hits."""
        near: dict[str, list[Near]] = {}
        for hit in hits:
            base = hit.row_id.rpartition("/")[0]
            numbers = range(hit.ordinal - distance, hit.ordinal + distance + 1)
            rows = [(number, self.chunks.get(f"{base}/{number:06d}")) for number in numbers]
            near[hit.row_id] = [Near(n, row[1].chunk.start, row[1].chunk.end) for n, row in rows if row is not None]
        return near

    async def excerpts(self, ranges: Sequence[tuple[StoredDocument, int, int]]) -> list[str | None]:
        """Returns ranges of texts."""
        texts = [self.texts.get((document.key, document.version)) for document, _, _ in ranges]
        return [text and text[start:end] for text, (_, start, end) in zip(texts, ranges, strict=True)]

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the first model."""
        self._check()
        await self.change(lambda catalogue: catalogue.adopted(model))

    async def change(self, decide: Callable[[Catalogue], Catalogue]) -> Catalogue:
        """Changes the catalogue."""
        self.catalogue = decide(self.catalogue)
        return self.catalogue

    def _rank(self, score: Callable[[NewChunk], float], view: View, *, limit: int) -> list[Hit]:
        self._check()
        hits = []
        for row_id, (document, chunk) in self.chunks.items():
            points = score(chunk)
            if points > 0 and view.shows(document):
                hit = Hit(
                    row_id=row_id,
                    key=document.key,
                    version=document.version,
                    chunk=chunk.chunk,
                    text=chunk.content[chunk.prefix_length :],
                    ordinal=int(row_id.rpartition("/")[2]),
                    score=points,
                )
                hits.append((-points, row_id, hit))
        hits.sort(key=lambda item: item[:2])
        self.on_search()
        return [hit for _, _, hit in hits[:limit]]

    def _erase(self, document: StoredDocument) -> None:
        gone = [row_id for row_id, (owner, _) in self.chunks.items() if owner.version == document.version]
        for row_id in gone:
            del self.chunks[row_id]
        self.texts.pop((document.key, document.version), None)

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault


class FakeEmbedderServicer(pb_grpc.EmbedderServiceServicer):
    """Is an embedder peer: a real gRPC servicer on `embed`."""

    def __init__(self, *, dimension: int = DIMENSION, name: str = MODEL.name, sha256: str = MODEL.sha256) -> None:
        self.dimension = dimension
        self.name = name
        self.sha256 = sha256
        self.num_calls = 0
        self.reranks = False

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        """Embeds the texts."""
        self.num_calls += 1
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=embed(text, self.dimension)) for text in request.texts],
            lineage=common.Lineage(model=self.name, model_sha256=self.sha256),
        )

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Scores by `overlaps`; refuses unless `reranks` is set."""
        if not self.reranks:
            await context.abort(*to_grpc(FailedPrecondition("no reranker", reason="RERANKER_NOT_CONFIGURED")))
        return pb.RerankResponse(scores=overlaps(request.query, request.texts))


@asynccontextmanager
async def embedder_peer(servicer: FakeEmbedderServicer | None = None) -> AsyncIterator[str]:
    """Serves an embedder on an ephemeral port and yields its address."""
    server = grpc.aio.server()
    pb_grpc.add_EmbedderServiceServicer_to_server(servicer or FakeEmbedderServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


DOWN = Unavailable("the store is down")
