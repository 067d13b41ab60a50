"""Finds passages: rankings, check, fusion, duplicates, reranking, diversity, neighbours; in that order.

A ranking may hold chunks of versions that a write is just replacing; the documents' rows decide, and they are read
after the rankings: what is returned is live, allowed, in force and wanted.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from opentelemetry.trace import Tracer

from services.retriever.domain import (
    DocumentKey,
    Embedder,
    Fusion,
    Hit,
    Mode,
    Passage,
    ReciprocalRank,
    Snapshot,
    Store,
    StoredDocument,
    Vector,
    View,
    Weighted,
    Wish,
)
from services.retriever.engine.diversity import diversify
from services.retriever.engine.duplicates import without_duplicates
from services.retriever.engine.fusion import Candidate, fuse
from services.retriever.engine.neighbours import ranges, widened
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, InvalidInput
from tandem.security import Principal

_ROUNDS = 3  # rankings are read again, and deeper, while stale hits and duplicates leave too few passages
_MIN_DEPTH, _MAX_DEPTH = 40, 1_000
_SPARE = 6  # hits that may be stale or duplicates without another round
_CONSIDERED = 64  # candidates that reranking and diversity choose from, more only if more are asked for


@dataclass(frozen=True)
class Defaults:
    """Is what a search that leaves a choice open gets."""

    fusion: Fusion = Weighted()  # noqa: RUF009 -- frozen
    rerank: bool = False


@dataclass(frozen=True)
class Found:
    """Is the outcome of a search in a snapshot; seconds by stage."""

    passages: Sequence[Passage]
    snapshot_id: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """Is one search under way: what it asks for, as it is possible here, and how long it took so far."""

    wish: Wish
    mode: Mode
    view: View
    snapshot: Snapshot
    seconds: dict[str, float]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        before = self.seconds.setdefault(stage, 0.0)  # in the order in which they began
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = before + time.perf_counter() - started


class Searcher:
    """Answers searches."""

    def __init__(
        self,
        *,
        store: Store,
        embedder: Embedder,
        defaults: Defaults,
        metrics: RetrieverMetrics,
        tracer: Tracer,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._defaults = defaults
        self._metrics = metrics
        self._tracer = tracer

    async def search(self, principal: Principal, wish: Wish) -> Found:
        """Returns at most top_k passages, best first; raises NotFound for a snapshot that there is not."""
        mode = self._mode(wish.mode)
        with self._store.hold(wish.snapshot) as snapshot:
            named = snapshot.as_of if wish.moment is None else wish.moment
            moment = time.time_ns() // 1000 if named is None else named
            view = View(principal=principal, moment=moment, filter=wish.filter)
            run = _Run(wish=wish, mode=mode, view=view, snapshot=snapshot, seconds={})
            vector = await self._vector(run)
            with self._tracer.start_as_current_span("retriever.search"):
                candidates, live = await self._candidates(run, vector)
                best = await self._best(run, candidates)
                passages = await self._widened(run, best, [_passage(item, live[item.hit.key]) for item in best])
        for stage, spent in run.seconds.items():
            self._metrics.search_seconds.labels(mode=mode.value, stage=stage).observe(spent)
        self._metrics.passages.inc(len(passages))
        return Found(passages=passages, snapshot_id=snapshot.snapshot_id, seconds=run.seconds)

    def _mode(self, mode: Mode) -> Mode:
        """Returns the mode as far as the store has it."""
        if self._store.bm25 or mode is Mode.DENSE:
            return mode
        if mode is Mode.HYBRID:
            return Mode.DENSE
        raise FailedPrecondition(
            "this Milvus does not rank by BM25: search by meaning (SEARCH_MODE_DENSE), or run the retriever on Milvus "
            "Lite or on a Milvus 2.5 or newer",
            reason="BM25_UNAVAILABLE",
        )

    async def _vector(self, run: _Run) -> Vector:
        given, dimension = run.wish.vector, run.snapshot.dimension
        if self._is_foreign(run):
            given = ()
        if given and len(given) != dimension:
            raise InvalidInput.of("query_vector", f"has {len(given)} components; the collection has {dimension}")
        if given or run.mode is Mode.SPARSE:
            return given
        with run.timed("embed"), self._tracer.start_as_current_span("retriever.embed"):
            embedded = await self._embedder.embed([run.wish.query], model=run.snapshot.model)
        if embedded.model.dimension != dimension:
            raise FailedPrecondition(
                f"the embedder's vectors have {embedded.model.dimension} components, the collection's {dimension}: run "
                "the embedder with the model that the collection was made with",
                reason="EMBEDDING_MODEL_MISMATCH",
            )
        return embedded.vectors[0]

    @staticmethod
    def _is_foreign(run: _Run) -> bool:
        """Tells whether the vector comes from other weights than those that it would be compared with."""
        model, named = run.snapshot.model, run.wish.vector_model
        return model is not None and bool(named) and named != model.sha256

    async def _candidates(self, run: _Run, vector: Vector) -> tuple[list[Candidate], dict[DocumentKey, StoredDocument]]:
        """Returns what may be returned, best first, and the documents it is from."""
        wish = run.wish
        fusion = (wish.fusion or self._defaults.fusion) if run.mode is Mode.HYBRID else ReciprocalRank()
        depth = self._depth(run)
        for number in range(_ROUNDS):
            dense, sparse = await self._rankings(run, vector, depth=depth)
            dense_ended, sparse_ended = len(dense) < depth, len(sparse) < depth
            with run.timed("check"):
                dense, sparse, live, num_stale = await self._alive(dense, sparse, run.view)
            candidates = fuse(dense, sparse, fusion, sparse_ended=sparse_ended)
            if not wish.keep_duplicates:
                candidates = without_duplicates(candidates, most=self._num_considered(wish))
            full = len(candidates) >= wish.top_k
            # A stale hit may mean that a document was replaced between ranking and check: look once more.
            if (full and number > 0) or (num_stale == 0 and (full or (dense_ended and sparse_ended))):
                break
            depth = min(4 * max(depth, _MIN_DEPTH), _MAX_DEPTH)
        return candidates, live

    def _depth(self, run: _Run) -> int:
        """Returns how deep to rank at first: what is neither fused nor reranked needs room for what is dropped."""
        top_k = run.wish.top_k
        if run.mode is Mode.HYBRID or self._chooses(run.wish):
            return max(4 * top_k, _MIN_DEPTH)
        return top_k + _SPARE

    def _num_considered(self, wish: Wish) -> int:
        return max(wish.top_k, min(4 * wish.top_k, _CONSIDERED)) if self._chooses(wish) else wish.top_k

    def _chooses(self, wish: Wish) -> bool:
        return wish.diversity > 0 or self._reranks(wish)

    def _reranks(self, wish: Wish) -> bool:
        return self._defaults.rerank if wish.rerank is None else wish.rerank

    async def _rankings(self, run: _Run, vector: Vector, *, depth: int) -> tuple[list[Hit], list[Hit]]:
        async def dense() -> list[Hit]:
            with run.timed("dense"):
                return await self._store.search_dense(vector, run.view, snapshot=run.snapshot.key, limit=depth)

        async def sparse() -> list[Hit]:
            with run.timed("sparse"):
                return await self._store.search_sparse(run.wish.query, run.view, snapshot=run.snapshot.key, limit=depth)

        if run.mode is Mode.DENSE:
            return await dense(), []
        if run.mode is Mode.SPARSE:
            return [], await sparse()
        both = await asyncio.gather(dense(), sparse())
        return both[0], both[1]

    async def _alive(
        self, dense: list[Hit], sparse: list[Hit], view: View
    ) -> tuple[list[Hit], list[Hit], dict[DocumentKey, StoredDocument], int]:
        """Keeps the hits whose version is live; checks once more that the view shows them on the way."""
        live = await self._store.live(sorted({hit.key for hit in (*dense, *sparse)}))

        def keep(hit: Hit) -> bool:
            document = live.get(hit.key)
            return document is not None and document.version == hit.version and view.shows(document)

        kept = [hit for hit in dense if keep(hit)], [hit for hit in sparse if keep(hit)]
        num_stale = len(dense) + len(sparse) - len(kept[0]) - len(kept[1])
        if num_stale:
            self._metrics.stale_hits.inc(num_stale)
        return *kept, live, num_stale

    async def _best(self, run: _Run, candidates: list[Candidate]) -> list[Candidate]:
        """Returns the top_k candidates as reranker and diversity choose."""
        wish = run.wish
        considered = candidates[: self._num_considered(wish)]
        if considered and self._reranks(wish):
            with run.timed("rerank"):
                scores = await self._embedder.rerank(wish.query, [item.hit.text for item in considered])
            scored = zip(considered, scores, strict=True)
            considered = [replace(item, score=score, rerank_score=score) for item, score in scored]
            considered.sort(key=lambda item: -item.score)
        if wish.diversity > 0:
            with run.timed("diversify"):
                row_ids = [item.hit.row_id for item in considered]
                vectors = await self._store.vectors(row_ids, snapshot=run.snapshot.key)
                return diversify(considered, vectors, diversity=wish.diversity, top_k=wish.top_k)
        return considered[: wish.top_k]

    async def _widened(self, run: _Run, best: list[Candidate], passages: list[Passage]) -> list[Passage]:
        if run.wish.num_neighbors == 0 or not best:
            return passages
        with run.timed("expand"):
            hits = [item.hit for item in best]
            near = await self._store.neighbours(hits, distance=run.wish.num_neighbors, snapshot=run.snapshot.key)
            wider = ranges(best, near)
            texts = await self._store.excerpts(
                [(passages[item.found].document, item.start, item.end) for item in wider]
            )
            return widened(passages, wider, texts)


def _passage(candidate: Candidate, document: StoredDocument) -> Passage:
    hit = candidate.hit
    return Passage(
        document=document,
        chunk=hit.chunk,
        text=hit.text,
        score=candidate.score,
        dense_rank=candidate.dense_rank,
        sparse_rank=candidate.sparse_rank,
        dense_score=candidate.dense_score,
        sparse_score=candidate.sparse_score,
        rerank_score=candidate.rerank_score,
    )
