"""Fills a snapshot with the documents that are there already.

What is written after the snapshot's creation has its chunks from the start, so that a build goes over the documents
until it finds none without. Whatever it did before it was cut off counts; nothing else needs to be remembered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from opentelemetry.trace import Tracer

from services.retriever.chunking import cut, drafts
from services.retriever.domain import (
    Embedded,
    EmbeddingModel,
    NewChunk,
    Snapshot,
    SnapshotStore,
    StoredDocument,
    Vector,
)
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import DataLoss, NotFound, TandemError

_PAGE = 200
_CHARACTERS_AT_ONCE = 200_000  # of texts in memory
_REPORT_S = 5.0
_VAIN_PASSES = 3  # over documents that are there, whose texts are not

Filled = tuple[StoredDocument, list[NewChunk]]


class Models(Protocol):
    """Embeds by the model that is asked for, and knows which is the newest."""

    async def embed(self, texts: Sequence[str], *, model: EmbeddingModel | None = None) -> Embedded:
        """Returns a vector for each text; raises FailedPrecondition when the model is not served."""
        ...

    async def newest(self) -> EmbeddingModel:
        """Returns the model that new snapshots are made with."""
        ...


@dataclass
class _Pass:
    """Counts the documents of one pass."""

    num_held: int = 0
    num_lacking: int = 0
    num_filled: int = 0


class Builder:
    """Builds one snapshot at a time, in small pieces, so that searches and ingestion go on beside it."""

    def __init__(
        self, *, store: SnapshotStore, models: Models, batch_texts: int, metrics: RetrieverMetrics, tracer: Tracer
    ) -> None:
        self._store = store
        self._models = models
        self._batch_texts = batch_texts
        self._metrics = metrics
        self._tracer = tracer

    async def build(self, snapshot: Snapshot, report: Callable[[int], Awaitable[None]]) -> None:
        """Returns when every document is in the snapshot; report gets the number of those that are, now and then."""
        vain = 0
        while (outcome := await self._pass(snapshot, report)).num_lacking:
            vain = 0 if outcome.num_filled else vain + 1
            if vain == _VAIN_PASSES:
                raise DataLoss(f"the texts of {outcome.num_lacking} documents are missing: ingest them again")

    async def _pass(self, snapshot: Snapshot, report: Callable[[int], Awaitable[None]]) -> "_Pass":
        outcome = _Pass()
        reported, place, more = time.monotonic(), "", True
        while more:
            documents, place = await self._store.scan(after=place, limit=_PAGE)
            more = bool(place)
            lacking = [document for document in documents if snapshot.key not in document.cuts]
            outcome.num_held += len(documents) - len(lacking)
            outcome.num_lacking += len(lacking)
            for some in _portions(lacking):
                outcome.num_filled += await self._fill(snapshot, some)
                if time.monotonic() - reported >= _REPORT_S:
                    await report(outcome.num_held + outcome.num_filled)
                    reported = time.monotonic()
        return outcome

    async def _fill(self, snapshot: Snapshot, documents: Sequence[StoredDocument]) -> int:
        with self._tracer.start_as_current_span("retriever.rebuild"):
            filled = [one for document in documents if (one := await self._cut(snapshot, document)) is not None]
            if not filled:
                return 0
            texts = [draft.content for _, made in filled for draft in made]
            vectors: list[Vector] = []
            for start in range(0, len(texts), self._batch_texts):
                some = texts[start : start + self._batch_texts]
                vectors += (await self._models.embed(some, model=snapshot.model)).vectors
            each = iter(vectors)
            chunks = [(document, [replace(draft, vector=next(each)) for draft in made]) for document, made in filled]
            await self._store.fill(snapshot.key, chunks)
        self._metrics.snapshot_documents.inc(len(chunks))
        return len(chunks)

    async def _cut(self, snapshot: Snapshot, document: StoredDocument) -> Filled | None:
        try:
            text, blocks = await self._store.outlined(document)
        except NotFound:
            return None  # replaced or deleted meanwhile
        chunks = await asyncio.to_thread(cut, text, blocks, limit=snapshot.chunk_characters)
        return document, drafts(text, chunks, title=document.header.title)


def _portions(documents: Sequence[StoredDocument]) -> list[list[StoredDocument]]:
    """Returns runs of documents whose texts are held in memory together."""
    portions: list[list[StoredDocument]] = []
    size = 0
    for document in documents:
        if not portions or size + document.num_characters > _CHARACTERS_AT_ONCE:
            portions.append([])
            size = 0
        portions[-1].append(document)
        size += document.num_characters
    return portions


def waits(error: TandemError) -> bool:
    """Tells whether a build that failed so may go on after a while."""
    return error.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
