"""What the store writes, so that a document is visible in its old or in its new version wherever a write breaks off.

A document's chunks and text carry its version in their keys; the document's row names the version that is live and the
snapshots that have chunks of it, and changing that one row is what makes them visible. A write therefore goes: intent,
chunks and text, document rows, removal of the old versions' rows, removal of the intent. The intent tells the next
write, or the next start, which rows to remove.

Milvus Lite replaces a row in two steps, each of them whole: it removes the old one and then inserts the new. Killed in
between it has neither. So what document rows are replaced by is kept beside the intent, and a row that is missing
though it was to be replaced is inserted from there.
"""

import asyncio
import json
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.documents import DocumentRows
from services.retriever.backend.keys import document_row, part_rows
from services.retriever.backend.known import KnownDocuments
from services.retriever.backend.rows import (
    ROWS_PER_CALL,
    chunk_rows,
    cut_of,
    document_to_row,
    num_parts,
    row_to_document,
    slices,
    text_rows,
)
from services.retriever.backend.schema import Names, meta_row
from services.retriever.backend.snapshots import SnapshotRows
from services.retriever.domain import Catalogue, NewChunk, NewDocument, SnapshotsChanged, StoredDocument, dump_outline
from tandem.errors import NotFound
from tandem.tasks import finished

log = logging.getLogger(__name__)

_IDS_PER_CALL = 1_000
_DOCUMENTS_PER_INTENT = 50
_SETTLE_TIMEOUT_S = 60.0
# On a server another replica may be writing; what it has not settled after so long, it never will.
_GRACE_US = 15 * 60 * 1_000_000


class Footprint(NamedTuple):
    """Is what a version of a document takes up: its chunks by snapshot, and the parts of its text and outline."""

    row: str
    version: str
    chunks: tuple[tuple[str, int], ...]
    parts: int


class Writing:
    """Writes the collections, one write of this process at a time."""

    def __init__(
        self,
        connection: MilvusConnection,
        names: Names,
        snapshots: SnapshotRows,
        documents: DocumentRows,
        known: KnownDocuments,
    ) -> None:
        self._connection = connection
        self._names = names
        self._documents = documents
        self._snapshots = snapshots
        self._known = known
        self._broken_off = 0  # when a write has last failed half done, until that is settled
        self._lock = asyncio.Lock()  # a version that is being replaced must not be removed at the same time

    async def put(self, documents: Sequence[NewDocument]) -> None:
        """Writes versions and makes them live; no document may occur twice."""
        outlines = [dump_outline(new.blocks) if new.blocks else "" for new in documents]
        rows_of_texts = [
            row for new, outline in zip(documents, outlines, strict=True) for row in text_rows(new, outline)
        ]
        rows_of_chunks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for new in documents:
            for key, chunks in new.chunks.items():
                rows_of_chunks[key] += chunk_rows(new.document, chunks)
        run = 0

        def do(client: Any, timeout: float) -> None:
            nonlocal run
            run += 1
            names = self._names
            written = {one.key for one in self._snapshots.current(client, timeout=timeout).written}
            if any(not written <= new.chunks.keys() for new in documents):
                raise SnapshotsChanged
            fresh = [_stored(new, outline, written) for new, outline in zip(documents, outlines, strict=True)]
            ids = [document_row(document.key) for document in fresh]
            new = [_footprint(document, row) for document, row in zip(fresh, ids, strict=True)]
            versions = {footprint[:2] for footprint in new}
            rows = self._documents.get(client, ids, timeout=timeout)
            old = [_footprint(self._document(row), row["id"]) for row in rows]
            old = [footprint for footprint in old if footprint[:2] not in versions]
            replaced = {row["id"] for row in rows}
            flip = [document_to_row(document) for document in fresh]
            redo = [row for row in flip if row["id"] in replaced]
            intents = self._intend(client, [*old, *new], redo, timeout=timeout)
            # Inserting is several times cheaper; after a death in between, rows may be there already.
            write = client.insert if run == 1 else client.upsert
            _write(write, names.texts, rows_of_texts, timeout=timeout)
            for key in written:
                _write(write, names.chunks_of(key), rows_of_chunks[key], timeout=timeout)
            self._documents.write(client, flip, timeout=timeout)
            self._erase(client, old, timeout=timeout)
            _delete(client, names.meta, intents, timeout=timeout)

        await self._change(do, [document_row(new.document.key) for new in documents])

    async def fill(self, key: str, filling: Sequence[tuple[StoredDocument, Sequence[NewChunk]]]) -> None:
        """Writes chunks of versions that are there already into one more snapshot."""
        by_row = {document_row(document.key): (document, chunks) for document, chunks in filling}

        def do(client: Any, timeout: float) -> None:
            names = self._names
            written = {one.key for one in self._snapshots.current(client, timeout=timeout).written}
            if key not in written:
                raise NotFound("the snapshot is gone")
            rows = {row["id"]: row for row in self._documents.get(client, list(by_row), timeout=timeout)}
            footprints, rows_of_chunks, rows_of_documents = [], [], []
            for row_id, (document, chunks) in by_row.items():
                if row_id not in rows or rows[row_id]["version"] != document.version:
                    continue  # replaced or deleted meanwhile; the new version has its chunks already
                held = self._document(rows[row_id])
                cuts = {other: cut for other, cut in held.cuts.items() if other in written}
                rows_of_documents.append(document_to_row(replace(held, cuts={**cuts, key: cut_of(chunks)})))
                rows_of_chunks += chunk_rows(document, chunks)
                footprints.append(Footprint(row_id, document.version, ((key, len(chunks)),), 0))
            intents = self._intend(client, footprints, rows_of_documents, timeout=timeout)
            _write(client.upsert, names.chunks_of(key), rows_of_chunks, timeout=timeout)
            self._documents.write(client, rows_of_documents, timeout=timeout)
            _delete(client, names.meta, intents, timeout=timeout)

        await self._change(do, by_row)

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document; its row goes first, and with it every chunk from sight."""
        row = document_row(document.key)

        def do(client: Any, timeout: float) -> None:
            self._snapshots.current(client, timeout=timeout)
            found = self._documents.get(client, [row], timeout=timeout)
            footprints = {_footprint(self._document(item), row) for item in found} | {_footprint(document, row)}
            intents = self._intend(client, sorted(footprints), (), timeout=timeout)
            self._documents.delete(client, row, timeout=timeout)
            self._erase(client, footprints, timeout=timeout)
            _delete(client, self._names.meta, intents, timeout=timeout)

        await self._change(do, [row])

    async def change(self, decide: Callable[[Catalogue], Catalogue]) -> Catalogue:
        """Makes what decide returns the catalogue; no other write of this process runs meanwhile."""
        decided: Catalogue | None = None

        def once(catalogue: Catalogue) -> Catalogue:
            nonlocal decided
            # A call that the engine's death cut off is made again: what it wrote must not be taken for another's.
            decided = decided or decide(catalogue)
            return decided

        def do(client: Any, timeout: float) -> None:
            self._snapshots.change(client, once, timeout=timeout)

        await self._change(do, ())
        return self._snapshots.catalogue

    async def _change(self, do: Callable[[Any, float], None], rows: Iterable[str]) -> None:
        """Runs a write of documents, named by their rows."""

        def settled(client: Any, timeout: float) -> None:
            grace = 0 if self._connection.embedded else _GRACE_US
            if self._broken_off and self._broken_off + grace <= _now():
                self.settle_all(client)
                self._broken_off = 0
            before, self._broken_off = self._broken_off, _now()
            do(client, timeout)
            self._broken_off = before

        async with self._lock:
            with self._known.changing(rows):
                await finished(self._connection.call(settled))

    # -- inside a call: blocking, in a thread ------------------------------------------------------------------------

    def settle_all(self, client: Any) -> None:
        """Finishes what a crash has left half done: removes every intended version, or part of it, that is not live."""
        until = _now() - (0 if self._connection.embedded else _GRACE_US)
        where = f'id > "intent/" and id < "intent0" and created <= {until:d}'
        timeout = _SETTLE_TIMEOUT_S
        client = self._connection.newest(client)  # what is not read as live is removed
        self._redo(client, timeout=timeout)
        while rows := client.query(
            self._names.meta, filter=where, limit=100, output_fields=["id", "value"], timeout=timeout
        ):
            for row in rows:
                footprints = [_from_json(item) for item in json.loads(row["value"])]
                ids = sorted({footprint.row for footprint in footprints})
                found = self._documents.get(client, ids, timeout=timeout)
                live = {item["id"]: self._document(item) for item in found}
                stale = [left for footprint in footprints if (left := _left(footprint, live.get(footprint.row)))]
                self._erase(client, stale, timeout=timeout)
                _delete(client, self._names.meta, [row["id"]], timeout=timeout)
                log.info("settled an interrupted write", extra={"versions_removed": len(stale)})

    def _redo(self, client: Any, *, timeout: float) -> None:
        """Inserts the rows of documents that a crash has cut off between the removal of the old and the new one."""
        meta = self._names.meta
        where = 'id > "redo/" and id < "redo0"'
        while kept := client.query(meta, filter=where, limit=100, output_fields=["id", "value"], timeout=timeout):
            redone = {row["id"]: row for row in (self._from_redo(one) for one in kept)}
            there = {row["id"] for row in self._documents.get(client, list(redone), timeout=timeout)}
            if missing := [row for row_id, row in redone.items() if row_id not in there]:
                self._documents.insert(client, missing, timeout=timeout)
                log.info("wrote rows again that were cut off while they were replaced", extra={"rows": len(missing)})
            _delete(client, meta, [one["id"] for one in kept], timeout=timeout)

    def _from_redo(self, kept: Any) -> dict[str, Any]:
        row, _, version = str(kept["id"]).removeprefix("redo/").rpartition("/")
        return document_to_row(self._document({"id": row, "version": version, "record": kept["value"]}))

    def _document(self, row: Any) -> StoredDocument:
        return row_to_document(row, live=self._snapshots.catalogue.live_key)

    def _intend(
        self, client: Any, footprints: Sequence[Footprint], redo: Sequence[Mapping[str, Any]], *, timeout: float
    ) -> list[str]:
        """Records which versions a write touches and what it replaces documents' rows by; returns the records' keys."""
        rows = [
            meta_row(f"intent/{uuid.uuid4().hex}", json.dumps(some))
            for some in slices(footprints, _DOCUMENTS_PER_INTENT)
        ]
        if self._connection.embedded:  # a server replaces a row in one step
            rows += [meta_row(f"redo/{row['id']}/{row['version']}", row["record"]) for row in redo]
        _write(client.insert, self._names.meta, rows, timeout=timeout)
        return [str(row["id"]) for row in rows]

    def _erase(self, client: Any, footprints: Iterable[Footprint], *, timeout: float) -> None:
        """Removes the chunks and texts of versions; none of them may be live."""
        kept = {one.key for one in self._snapshots.catalogue.written}
        chunks: defaultdict[str, list[str]] = defaultdict(list)
        texts: list[str] = []
        for row, version, numbers, parts in footprints:
            for key, number in numbers:
                chunks[key] += part_rows(row, version, number)
            texts += part_rows(row, version, parts)
        for key in kept & chunks.keys():
            _delete(client, self._names.chunks_of(key), chunks[key], timeout=timeout)
        _delete(client, self._names.texts, texts, timeout=timeout)


def _now() -> int:
    return time.time_ns() // 1000


def _write(write: Callable[..., Any], name: str, rows: Sequence[Mapping[str, Any]], *, timeout: float) -> None:
    for some in slices(rows, ROWS_PER_CALL):
        write(name, some, timeout=timeout)


def _delete(client: Any, name: str, ids: Sequence[str], *, timeout: float) -> None:
    for some in slices(ids, _IDS_PER_CALL):
        client.delete(name, ids=some, timeout=timeout)


def _stored(new: NewDocument, outline: str, written: set[str]) -> StoredDocument:
    cuts = {key: cut_of(chunks) for key, chunks in new.chunks.items() if key in written}
    return replace(new.document, cuts=cuts, outline_characters=len(outline))


def _footprint(document: StoredDocument, row: str) -> Footprint:
    chunks = tuple(sorted((key, cut.num_chunks) for key, cut in document.cuts.items()))
    parts = num_parts(document.num_characters) + num_parts(document.outline_characters)
    return Footprint(row, document.version, chunks, parts)


def _from_json(item: Sequence[Any]) -> Footprint:
    row, version, chunks, parts = item
    return Footprint(str(row), str(version), tuple((str(key), int(number)) for key, number in chunks), int(parts))


def _left(footprint: Footprint, live: StoredDocument | None) -> Footprint | None:
    """Returns what of a footprint is not live."""
    if live is None or live.version != footprint.version:
        return footprint
    chunks = tuple(one for one in footprint.chunks if one[0] not in live.cuts)
    return footprint._replace(chunks=chunks, parts=0) if chunks else None
