"""The way of a document: unchanged? -> parse and cut -> embed -> write -> acknowledge.

The documents of a stream travel at the same time, each at its own stage, and are acknowledged in the order of arrival.
Embedding and writing batch over all streams. A document's own fault rejects that document; a fault of the house ends
the stream, and what was acknowledged before stays.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.trace import Tracer

from services.retriever.chunking import cut, drafts
from services.retriever.domain import (
    Chunk,
    DocumentKey,
    Embedder,
    EmbeddingModel,
    NewChunk,
    NewDocument,
    ParsedDocument,
    Parser,
    Snapshot,
    SnapshotsChanged,
    Store,
    StoredDocument,
    Unreadable,
    Vector,
)
from services.retriever.domain.uploads import Origin, Result, State, Timings, Upload
from services.retriever.ingest.batcher import Batcher
from services.retriever.ingest.reasons import ADVICE
from services.retriever.ingest.window import Limits, Window
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, Overloaded, PermissionDenied
from tandem.security import Principal

# Part of every header's digest: raising it makes the next ingestion of an unchanged document process it anew.
_RECIPE = "2"


class Ingestion:
    """Takes in the documents of any number of streams."""

    def __init__(
        self,
        *,
        store: Store,
        embedder: Embedder,
        parser: Parser,
        limits: Limits,
        metrics: RetrieverMetrics,
        tracer: Tracer,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._parser = parser
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._streams = 0
        self._embed: Batcher[tuple[EmbeddingModel | None, str], Vector] = Batcher(
            self._embed_batch,
            max_weight=limits.embed_batch_texts * 4096,
            max_items=limits.embed_batch_texts,
            concurrency=limits.embed_concurrency,
        )
        self._live: Batcher[DocumentKey, StoredDocument | None] = Batcher(
            self._live_batch, max_weight=256, max_items=256
        )
        # One writer: two versions of a document never race within this process.
        self._write: Batcher[NewDocument, None] = Batcher(
            self._write_batch, max_weight=limits.write_batch_chunks, max_items=limits.write_batch_documents
        )

    def start(self) -> None:
        """Starts the batches."""
        self._live.start()
        self._embed.start()
        self._write.start()

    async def stop(self) -> None:
        """Fails what is under way."""
        await self._live.stop()
        await self._embed.stop()
        await self._write.stop()

    async def run(
        self,
        principal: Principal,
        uploads: AsyncIterator[Upload],
        timings: Timings,
        *,
        origin: Origin = Origin.STREAM,
    ) -> AsyncGenerator[Result, None]:
        """Yields the results in the order of arrival; raises Overloaded when too many callers' streams run."""
        if origin is Origin.STREAM and self._streams >= self._limits.streams:
            raise Overloaded("too many ingestions are running", retry_after_s=5.0)
        self._streams += origin is Origin.STREAM
        window = Window(self._limits if origin is Origin.STREAM else self._limits.background())
        arrival: asyncio.Future[Upload | None] | None = None
        try:
            more = True
            while more or window:
                if more and arrival is None and not window.full:
                    arrival = asyncio.ensure_future(anext(uploads, None))
                awaited: set[asyncio.Future[Any]] = {window.head} if window else set()
                await asyncio.wait(awaited | ({arrival} if arrival else set()), return_when=asyncio.FIRST_COMPLETED)
                if arrival is not None and arrival.done():
                    upload, arrival = arrival.result(), None
                    if more := upload is not None:
                        self._begin(window, principal, upload=upload, timings=timings, origin=origin)
                while window and window.head.done():
                    yield window.pop()
        finally:
            self._streams -= origin is Origin.STREAM
            if arrival is not None:
                arrival.cancel()
                await asyncio.wait({arrival})
            await window.cancel()

    def _begin(self, window: Window, principal: Principal, *, upload: Upload, timings: Timings, origin: Origin) -> None:
        async def take_in(before: asyncio.Task[Result] | None) -> Result:
            result = await self._take_in(principal, upload, timings=timings, before=before)
            if result.state is State.INDEXED and upload.appeared is not None:
                age = max(0.0, time.time() - upload.appeared)
                self._metrics.freshness.labels(origin=origin.value).observe(age)
            return result

        def begin(before: asyncio.Task[Result] | None) -> asyncio.Task[Result]:
            return asyncio.create_task(take_in(before))

        window.push(upload, begin)

    async def _take_in(
        self, principal: Principal, upload: Upload, *, timings: Timings, before: asyncio.Task[Result] | None
    ) -> Result:
        if before is not None:
            await asyncio.wait({before})
        digest = await asyncio.to_thread(lambda: hashlib.sha256(upload.data).hexdigest())
        try:
            result = await self._index(principal, upload, digest=digest, timings=timings)
        except (Unreadable, _NotYours) as error:
            if isinstance(error, Unreadable):
                self._metrics.parse_failures.labels(reason=_known(error.reason)).inc()
            result = Result(upload.document_id, State.REJECTED, digest, error=error)
        if upload.fault is not None:
            result = replace(result, error=upload.fault)
        self._metrics.documents.labels(state=result.state.value).inc()
        return result

    async def _index(self, principal: Principal, upload: Upload, *, digest: str, timings: Timings) -> Result:
        if upload.fault is not None:
            return Result(upload.document_id, State.REJECTED, digest)
        key = DocumentKey(principal.tenant, upload.document_id)
        header_digest = upload.header.digest(_RECIPE)
        old = await self._live.submit(key, weight=1)
        if old is not None and not old.open_to(principal):
            raise _NotYours("the document exists and is open to other groups only", reason="DOCUMENT_NOT_VISIBLE")
        if old is not None and (old.content_sha256, old.header_sha256) == (digest, header_digest):
            return Result(upload.document_id, State.UNCHANGED, digest, num_chunks=old.num_chunks)
        started = time.perf_counter()
        with self._tracer.start_as_current_span("retriever.parse"):
            parsed = await self._parser.parse(upload.data, upload.header.media_type)
        parsing = time.perf_counter() - started
        self._metrics.ingest_seconds.labels(stage="parse").observe(parsing)
        timings.parse += parsing
        header = replace(upload.header, title=upload.header.title or parsed.title or upload.header.source)
        document = StoredDocument(
            key=key,
            header=header,
            version=uuid.uuid4().hex,
            content_sha256=digest,
            header_sha256=header_digest,
            num_chunks=0,
            num_characters=len(parsed.text),
            update_time=time.time_ns() // 1000,
        )
        num_chunks = await self._keep(document, parsed, timings=timings)
        return Result(upload.document_id, State.INDEXED, digest, num_chunks=num_chunks)

    async def _keep(self, document: StoredDocument, parsed: ParsedDocument, *, timings: Timings) -> int:
        """Embeds and writes a document for every snapshot that is to have it; returns its number of live chunks."""
        known: dict[tuple[int, EmbeddingModel | None], list[NewChunk]] = {}
        while True:
            catalogue = self._store.catalogue
            started = time.perf_counter()
            chunks = {}
            try:
                for one in catalogue.written:
                    recipe = one.chunk_characters, one.model
                    if recipe not in known and not await self._embedded(document, parsed, one, into=known):
                        continue
                    chunks[one.key] = known[recipe]
                timings.embed += time.perf_counter() - started
                started = time.perf_counter()
                kept = replace(document, num_chunks=len(chunks[catalogue.live_key]))
                new = NewDocument(document=kept, text=parsed.text, chunks=chunks, blocks=parsed.blocks)
                await self._write.submit(new, weight=sum(map(len, chunks.values())))
            except SnapshotsChanged:
                continue  # one was created, promoted or deleted meanwhile; what was embedded is not embedded again
            timings.write += time.perf_counter() - started
            return kept.num_chunks

    async def _embedded(
        self,
        document: StoredDocument,
        parsed: ParsedDocument,
        snapshot: Snapshot,
        *,
        into: dict[tuple[int, EmbeddingModel | None], list[NewChunk]],
    ) -> bool:
        """Cuts and embeds a document as a snapshot has it; gives up one beside the live one whose model is gone."""
        limit, model = snapshot.chunk_characters, snapshot.model
        chunks: Sequence[Chunk] = parsed.chunks
        if limit != self._limits.chunk_characters:
            chunks = await asyncio.to_thread(cut, parsed.text, parsed.blocks, limit=limit)
        made = drafts(parsed.text, chunks, title=document.header.title)
        submitted = [self._embed.submit((model, draft.content), weight=len(draft.content)) for draft in made]
        try:
            vectors = await asyncio.gather(*submitted)
        except FailedPrecondition as error:
            if error.reason != "EMBEDDING_MODEL_MISMATCH" or snapshot.key == self._store.catalogue.live_key:
                raise
            message, now = error.message, time.time_ns() // 1000
            await self._store.change(lambda catalogue: catalogue.failed(snapshot.key, message, now))
            return False
        into[limit, model] = [replace(draft, vector=vector) for draft, vector in zip(made, vectors, strict=True)]
        return True

    async def _live_batch(self, keys: Sequence[DocumentKey]) -> Sequence[StoredDocument | None]:
        live = await self._store.live(keys)
        return [live.get(key) for key in keys]

    async def _embed_batch(self, texts: Sequence[tuple[EmbeddingModel | None, str]]) -> Sequence[Vector]:
        started = time.perf_counter()
        vectors: dict[tuple[EmbeddingModel | None, str], Vector] = {}
        for model in dict.fromkeys(model for model, _ in texts):
            some = list(dict.fromkeys(text for other, text in texts if other == model))
            with self._tracer.start_as_current_span("retriever.embed"):
                embedded = await self._embedder.embed(some, model=model)
            if model is None:
                await self._store.adopt_model(embedded.model)
            vectors.update(((model, text), vector) for text, vector in zip(some, embedded.vectors, strict=True))
        self._metrics.ingest_seconds.labels(stage="embed").observe(time.perf_counter() - started)
        return [vectors[text] for text in texts]

    async def _write_batch(self, documents: Sequence[NewDocument]) -> Sequence[None]:
        started = time.perf_counter()
        with self._tracer.start_as_current_span("retriever.write"):
            for group in _apart(documents):
                await self._store.put(group)
        self._metrics.ingest_seconds.labels(stage="write").observe(time.perf_counter() - started)
        self._metrics.chunks.inc(sum(len(chunks) for document in documents for chunks in document.chunks.values()))
        return [None] * len(documents)


class _NotYours(PermissionDenied):
    """Rejects a document whose id belongs to one that the editor may not see."""


def _apart(documents: Sequence[NewDocument]) -> list[list[NewDocument]]:
    """Returns runs in which no document occurs twice, so that a later version replaces an earlier one."""
    runs: list[list[NewDocument]] = [[]]
    for document in documents:
        if any(document.document.key == other.document.key for other in runs[-1]):
            runs.append([])
        runs[-1].append(document)
    return runs


def _known(reason: str) -> str:
    """Keeps a worker that was taken over from inventing metric labels."""
    return reason if reason in ADVICE else "OTHER"
