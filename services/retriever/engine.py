"""Finds passages, and describes, lists and deletes documents.

A search runs the dense and the BM25 ranking at the same time and fuses them by reciprocal rank (Cormack, Clarke and
Buettcher, SIGIR 2009, k = 60). A ranking may hold chunks of versions that a write is just replacing; the documents'
rows decide, and they are read after the rankings: what is returned is live, allowed and in force.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.trace import Tracer

from services.retriever.domain import (
    DocumentKey,
    Embedder,
    Hit,
    Mode,
    Passage,
    Store,
    StoredDocument,
    Vector,
    View,
)
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import InvalidInput, NotFound
from tandem.security import Principal

RRF_K = 60
_ROUNDS = 3  # a ranking is read again, and deeper, while stale hits leave too few passages
_MAX_DEPTH = 1_000


@dataclass(frozen=True)
class Found:
    """Is the outcome of a search; seconds by stage."""

    passages: Sequence[Passage]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fused:
    """Is a hit with its places in the two rankings, from 1."""

    hit: Hit
    score: float
    dense_rank: int | None
    sparse_rank: int | None


def fuse(dense: Sequence[Hit], sparse: Sequence[Hit]) -> list[Fused]:
    """Merges two rankings by reciprocal rank, best first; ties keep the order of the dense, then the BM25 ranking."""
    dense_ranks = {hit.row_id: rank for rank, hit in enumerate(dense, start=1)}
    sparse_ranks = {hit.row_id: rank for rank, hit in enumerate(sparse, start=1)}
    hits = {hit.row_id: hit for hit in (*dense, *sparse)}
    fused = []
    for row_id, hit in hits.items():
        ranks = dense_ranks.get(row_id), sparse_ranks.get(row_id)
        score = sum(1 / (RRF_K + rank) for rank in ranks if rank is not None)
        fused.append(Fused(hit=hit, score=score, dense_rank=ranks[0], sparse_rank=ranks[1]))
    return sorted(fused, key=lambda item: -item.score)


class Engine:
    """Answers everything but ingestion."""

    def __init__(
        self, *, store: Store, embedder: Embedder, dimension: int, metrics: RetrieverMetrics, tracer: Tracer
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._dimension = dimension
        self._metrics = metrics
        self._tracer = tracer

    async def search(
        self, principal: Principal, *, query: str, vector: Vector, top_k: int, mode: Mode, moment: int | None
    ) -> Found:
        """Returns at most top_k passages, best first. An empty vector is asked of the embedder where one is needed."""
        if vector and len(vector) != self._dimension:
            raise InvalidInput.of("query_vector", f"has {len(vector)} components; the collection has {self._dimension}")
        view = View(principal=principal, moment=time.time_ns() // 1000 if moment is None else moment)
        seconds = {}
        if mode is not Mode.SPARSE and not vector:
            started = time.perf_counter()
            vector = await self._embedded(query)
            seconds["embed"] = time.perf_counter() - started
        started = time.perf_counter()
        with self._tracer.start_as_current_span("retriever.search"):
            passages = await self._passages(query, vector, view=view, top_k=top_k, mode=mode)
        seconds["search"] = time.perf_counter() - started
        for stage, spent in seconds.items():
            self._metrics.search_seconds.labels(mode=mode.value, stage=stage).observe(spent)
        self._metrics.passages.inc(len(passages))
        return Found(passages=passages, seconds=seconds)

    async def _embedded(self, query: str) -> Vector:
        with self._tracer.start_as_current_span("retriever.embed"):
            embedded = await self._embedder.embed([query])
        self._store.check_model(embedded.model)
        return embedded.vectors[0]

    async def _passages(self, query: str, vector: Vector, *, view: View, top_k: int, mode: Mode) -> list[Passage]:
        depth = max(4 * top_k, 40)
        for number in range(_ROUNDS):
            dense, sparse = await self._rankings(query, vector, view=view, mode=mode, depth=depth)
            dense, sparse, live, num_stale = await self._alive(dense, sparse, view)
            best = fuse(dense, sparse)[:top_k]
            # A stale hit may mean that a document was replaced between ranking and check: look once more.
            if num_stale == 0 or (number > 0 and len(best) == top_k):
                break
            depth = min(2 * depth, _MAX_DEPTH)
        return [
            Passage(
                document=live[item.hit.key],
                chunk=item.hit.chunk,
                text=item.hit.text,
                score=item.score,
                dense_rank=item.dense_rank,
                sparse_rank=item.sparse_rank,
            )
            for item in best
        ]

    async def _rankings(
        self, query: str, vector: Vector, *, view: View, mode: Mode, depth: int
    ) -> tuple[list[Hit], list[Hit]]:
        if mode is Mode.DENSE:
            return await self._store.search_dense(vector, view, limit=depth), []
        if mode is Mode.SPARSE:
            return [], await self._store.search_sparse(query, view, limit=depth)
        dense, sparse = await asyncio.gather(
            self._store.search_dense(vector, view, limit=depth), self._store.search_sparse(query, view, limit=depth)
        )
        return dense, sparse

    async def _alive(
        self, dense: list[Hit], sparse: list[Hit], view: View
    ) -> tuple[list[Hit], list[Hit], dict[DocumentKey, StoredDocument], int]:
        """Keeps the hits whose version is live; checks visibility and validity once more on the way."""
        live = await self._store.live(sorted({hit.key for hit in (*dense, *sparse)}))

        def keep(hit: Hit) -> bool:
            document = live.get(hit.key)
            return (
                document is not None
                and document.version == hit.version
                and document.open_to(view.principal)
                and document.valid_at(view.moment)
            )

        kept = [hit for hit in dense if keep(hit)], [hit for hit in sparse if keep(hit)]
        num_stale = len(dense) + len(sparse) - len(kept[0]) - len(kept[1])
        if num_stale:
            self._metrics.stale_hits.inc(num_stale)
        return *kept, live, num_stale

    async def get(self, principal: Principal, document_id: str, *, with_text: bool) -> tuple[StoredDocument, str]:
        """Returns a document, and its text on request; raises NotFound, also for what the principal may not see."""
        document = await self._visible(principal, document_id)
        return document, await self._store.text(document) if with_text else ""

    async def page(self, principal: Principal, *, after: str, size: int) -> tuple[list[StoredDocument], bool]:
        """Returns the first `size` documents past the id `after`, and whether there are more."""
        documents = await self._store.page(principal, after=after, limit=size + 1)
        return documents[:size], len(documents) > size

    async def delete(self, principal: Principal, document_id: str) -> int:
        """Removes a document and returns how many chunks went with it; raises NotFound as get does."""
        document = await self._visible(principal, document_id)
        await self._store.remove(document)
        self._metrics.documents.labels(state="deleted").inc()
        return document.num_chunks

    async def _visible(self, principal: Principal, document_id: str) -> StoredDocument:
        key = DocumentKey(principal.tenant, document_id)
        document = (await self._store.live([key])).get(key)
        if document is None or not document.open_to(principal):
            raise NotFound(f"there is no document {document_id!r}")
        return document
