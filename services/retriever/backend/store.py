"""The store port on Milvus.

A document's chunks and text carry its version in their keys; the document's row names the version that is live, and
changing that one row is what makes a version visible. A write therefore goes: intent, chunks and text, document rows,
removal of the old versions' rows, removal of the intent. Wherever that breaks off, each document is visible in its old
or its new version, and the intent tells the next write, or the next start, which rows to remove.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.keys import document_row, in_view, literal, part_rows, visible
from services.retriever.backend.rows import (
    CHUNK_FIELDS,
    DOCUMENT_FIELDS,
    chunk_rows,
    document_to_row,
    entity_to_hit,
    num_parts,
    row_to_document,
    text_ids,
    text_rows,
)
from services.retriever.backend.schema import NO_VECTOR, Names, prepare
from services.retriever.config import RetrieverConfig
from services.retriever.domain import DocumentKey, EmbeddingModel, Hit, NewDocument, StoredDocument, Vector, View
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, NotFound

log = logging.getLogger(__name__)

_ROWS_PER_CALL = 250
_IDS_PER_CALL = 1_000
_TEXTS_PER_CALL = 32
_DOCUMENTS_PER_INTENT = 50
_OPEN_TIMEOUT_S = 60.0
# On a server another replica may be writing; what it has not settled after so long, it never will.
_GRACE_US = 15 * 60 * 1_000_000

# document row, version, chunks, parts of text
Footprint = tuple[str, str, int, int]


class MilvusStore:
    """Keeps all state of the retriever in four collections."""

    def __init__(self, config: RetrieverConfig, *, metrics: RetrieverMetrics) -> None:
        self._config = config
        self._names = Names.of(config.collection)
        self._model: EmbeddingModel | None = None
        self._unsettled = False  # a write has failed half done
        self._writing = asyncio.Lock()  # a version that is being replaced must not be removed at the same time
        self.connection = MilvusConnection(
            uri=config.milvus_uri,
            token=config.milvus_token,
            timeout_s=config.store_timeout_seconds,
            concurrency=config.store_concurrency,
            metrics=metrics,
        )

    async def open(self) -> None:
        """Connects, makes or checks the collections, and clears up after a crash."""
        await self.connection.open(self._opened)

    async def close(self) -> None:
        """Disconnects."""
        await self.connection.close()

    def _opened(self, client: Any) -> None:
        prepare(client, self._names, config=self._config, embedded=self.connection.embedded, timeout=_OPEN_TIMEOUT_S)
        rows = client.get(self._names.meta, ids=["model"], output_fields=["value"], timeout=_OPEN_TIMEOUT_S)
        self._model = EmbeddingModel(**json.loads(rows[0]["value"])) if rows else None
        self._settle_all(client)

    # -- reading -------------------------------------------------------------------------------------------------

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions of those documents that exist."""
        if not keys:
            return {}
        by_row = {document_row(key): key for key in keys}

        def do(client: Any, timeout: float) -> list[Any]:
            return self._document_rows(client, list(by_row), timeout=timeout)

        rows = await self.connection.call(do)
        return {by_row[row["id"]]: row_to_document(by_row[row["id"]].tenant, row) for row in rows}

    async def page(self, principal: Any, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns documents past the id `after`; Milvus gives the rows of a limited query by primary key."""
        start = document_row(DocumentKey(principal.tenant, after))
        where = f"{visible(principal)} and id > {literal(start)}"

        def do(client: Any, timeout: float) -> list[Any]:
            return list(
                client.query(
                    self._names.documents, filter=where, limit=limit, output_fields=DOCUMENT_FIELDS, timeout=timeout
                )
            )

        documents = [row_to_document(principal.tenant, row) for row in await self.connection.call(do)]
        return sorted(documents, key=lambda document: document.key.document_id)

    async def text(self, document: StoredDocument) -> str:
        """Returns the extracted text of a version."""
        ids = text_ids(document)

        def do(client: Any, timeout: float) -> dict[str, str]:
            parts: dict[str, str] = {}
            for some in _slices(ids, _TEXTS_PER_CALL):
                rows = client.get(self._names.texts, ids=some, output_fields=["id", "text"], timeout=timeout)
                parts.update((row["id"], row["text"]) for row in rows)
            return parts

        parts = await self.connection.call(do)
        if len(parts) != len(ids):
            raise NotFound("the document has just been replaced or deleted")
        return "".join(parts[row_id] for row_id in ids)

    async def search_dense(self, vector: Vector, view: View, *, limit: int) -> list[Hit]:
        """Ranks what the view allows by cosine similarity."""
        return await self._search(list(vector), view, field="dense", limit=limit)

    async def search_sparse(self, query: str, view: View, *, limit: int) -> list[Hit]:
        """Ranks what the view allows by BM25."""
        return await self._search(query, view, field="sparse", limit=limit)

    async def _search(self, what: str | list[float], view: View, *, field: str, limit: int) -> list[Hit]:
        where = in_view(view)

        def do(client: Any, timeout: float) -> list[Any]:
            return list(
                client.search(
                    self._names.chunks,
                    data=[what],
                    anns_field=field,
                    filter=where,
                    limit=limit,
                    output_fields=CHUNK_FIELDS,
                    timeout=timeout,
                )[0]
            )

        return [entity_to_hit(view.principal.tenant, hit) for hit in await self.connection.call(do)]

    # -- writing -------------------------------------------------------------------------------------------------

    async def put(self, documents: Sequence[NewDocument]) -> None:
        """Writes versions and makes them live; no document may occur twice."""
        rows_of_chunks = [row for new in documents for row in chunk_rows(new)]
        rows_of_texts = [row for new in documents for row in text_rows(new)]
        rows_of_documents = [document_to_row(new.document) for new in documents]
        run = 0

        def do(client: Any, timeout: float) -> None:
            nonlocal run
            run += 1
            names = self._names
            old = [
                _footprint(row_to_document("", row), row["id"])
                for row in self._document_rows(client, [row["id"] for row in rows_of_documents], timeout=timeout)
            ]
            new = [_footprint(item.document, document_row(item.document.key)) for item in documents]
            old = [footprint for footprint in old if footprint not in new]
            intents = self._intend(client, [*old, *new], timeout=timeout)
            # Inserting is several times cheaper; after a death in between, rows may be there already.
            write = client.insert if run == 1 else client.upsert
            for name, rows in ((names.texts, rows_of_texts), (names.chunks, rows_of_chunks)):
                for some in _slices(rows, _ROWS_PER_CALL):
                    write(name, some, timeout=timeout)
            client.upsert(names.documents, rows_of_documents, timeout=timeout)
            self._erase(client, old, timeout=timeout)
            self._delete(client, names.meta, intents, timeout=timeout)

        await self._change(do)

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document; its row goes first, and with it every chunk from sight."""
        row = document_row(document.key)

        def do(client: Any, timeout: float) -> None:
            found = self._document_rows(client, [row], timeout=timeout)
            footprints = {_footprint(row_to_document("", item), row) for item in found} | {_footprint(document, row)}
            intents = self._intend(client, sorted(footprints), timeout=timeout)
            self._delete(client, self._names.documents, [row], timeout=timeout)
            self._erase(client, footprints, timeout=timeout)
            self._delete(client, self._names.meta, intents, timeout=timeout)

        await self._change(do)

    async def _change(self, do: Callable[[Any, float], None]) -> None:
        def settled(client: Any, timeout: float) -> None:
            if self._unsettled:
                self._settle_all(client)
            self._unsettled = True
            do(client, timeout)
            self._unsettled = False

        async with self._writing:
            await self.connection.call(settled)

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the model that the collection's vectors come from."""
        if self._model is None:
            self._check_dimension(model)
            value = json.dumps({"name": model.name, "sha256": model.sha256, "dimension": model.dimension})

            def do(client: Any, timeout: float) -> None:
                row = {"id": "model", "value": value, "created": time.time_ns() // 1000, "vector": NO_VECTOR}
                client.upsert(self._names.meta, [row], timeout=timeout)

            await self.connection.call(do)
            self._model = model
        self.check_model(model)

    def check_model(self, model: EmbeddingModel) -> None:
        """Raises FailedPrecondition when the collection's vectors come from another model."""
        self._check_dimension(model)
        if self._model is not None and (self._model.name, self._model.sha256) != (model.name, model.sha256):
            raise FailedPrecondition(
                f"the collection was made with the embedding model {self._model.name} ({self._model.sha256[:12]}), the "
                f"embedder serves {model.name} ({model.sha256[:12]}): run the embedder with that model, or set "
                "RETRIEVER_COLLECTION to a new name and ingest the documents again",
                reason="EMBEDDING_MODEL_MISMATCH",
            )

    def _check_dimension(self, model: EmbeddingModel) -> None:
        if model.dimension != self._config.dimension:
            raise FailedPrecondition(
                f"the embedder's vectors have {model.dimension} components, the collection's {self._config.dimension}: "
                "set RETRIEVER_DIMENSION and RETRIEVER_COLLECTION for that model and ingest the documents again",
                reason="EMBEDDING_MODEL_MISMATCH",
            )

    # -- inside a call: blocking, in a thread ------------------------------------------------------------------------

    def _document_rows(self, client: Any, ids: Sequence[str], *, timeout: float) -> list[Any]:
        found: list[Any] = []
        for some in _slices(ids, _ROWS_PER_CALL):
            found += client.get(self._names.documents, ids=some, output_fields=DOCUMENT_FIELDS, timeout=timeout)
        return found

    def _intend(self, client: Any, footprints: Sequence[Footprint], *, timeout: float) -> list[str]:
        """Records which versions a write touches; returns the intents' keys."""
        now = time.time_ns() // 1000
        rows = [
            {"id": f"intent/{uuid.uuid4().hex}", "value": json.dumps(some), "created": now, "vector": NO_VECTOR}
            for some in _slices(footprints, _DOCUMENTS_PER_INTENT)
        ]
        client.insert(self._names.meta, rows, timeout=timeout)
        return [str(row["id"]) for row in rows]

    def _erase(self, client: Any, footprints: Iterable[Footprint], *, timeout: float) -> None:
        """Removes the chunks and texts of versions; none of them may be live."""
        chunks, texts = [], []
        for row, version, num_chunks, parts in footprints:
            chunks += part_rows(row, version, num_chunks)
            texts += part_rows(row, version, parts)
        self._delete(client, self._names.chunks, chunks, timeout=timeout)
        self._delete(client, self._names.texts, texts, timeout=timeout)

    @staticmethod
    def _delete(client: Any, name: str, ids: Sequence[str], *, timeout: float) -> None:
        for some in _slices(ids, _IDS_PER_CALL):
            client.delete(name, ids=some, timeout=timeout)

    def _settle_all(self, client: Any) -> None:
        """Finishes what a crash has left half done: removes every intended version that is not live."""
        until = time.time_ns() // 1000 - (0 if self.connection.embedded else _GRACE_US)
        where = f'id > "intent/" and id < "intent0" and created <= {until:d}'
        while rows := client.query(
            self._names.meta, filter=where, limit=100, output_fields=["id", "value"], timeout=_OPEN_TIMEOUT_S
        ):
            for row in rows:
                footprints = [(str(f[0]), str(f[1]), int(f[2]), int(f[3])) for f in json.loads(row["value"])]
                ids = sorted({footprint[0] for footprint in footprints})
                live = {
                    (found["id"], found["version"])
                    for found in self._document_rows(client, ids, timeout=_OPEN_TIMEOUT_S)
                }
                stale = [footprint for footprint in footprints if footprint[:2] not in live]
                self._erase(client, stale, timeout=_OPEN_TIMEOUT_S)
                self._delete(client, self._names.meta, [row["id"]], timeout=_OPEN_TIMEOUT_S)
                log.info("settled an interrupted write", extra={"versions_removed": len(stale)})


def _footprint(document: StoredDocument, row: str) -> Footprint:
    return row, document.version, document.num_chunks, num_parts(document.num_characters)


def _slices(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
