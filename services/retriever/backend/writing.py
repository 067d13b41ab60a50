"""What the store writes, so that a document is visible in its old or in its new version wherever a write breaks off.

A document's chunks and text carry its version in their keys; the document's row names the version that is live, and
changing that one row is what makes a version visible. A write therefore goes: intent, chunks and text, document rows,
removal of the old versions' rows, removal of the intent. The intent tells the next write, or the next start, which rows
to remove.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.keys import document_row, part_rows
from services.retriever.backend.reading import ROWS_PER_CALL, document_rows, slices
from services.retriever.backend.rows import chunk_rows, document_to_row, num_parts, row_to_document, text_rows
from services.retriever.backend.schema import NO_VECTOR, Names
from services.retriever.domain import NewDocument, StoredDocument

log = logging.getLogger(__name__)

_IDS_PER_CALL = 1_000
_DOCUMENTS_PER_INTENT = 50
_SETTLE_TIMEOUT_S = 60.0
# On a server another replica may be writing; what it has not settled after so long, it never will.
_GRACE_US = 15 * 60 * 1_000_000

# document row, version, chunks, parts of text
Footprint = tuple[str, str, int, int]


class Writing:
    """Writes the collections."""

    def __init__(self, connection: MilvusConnection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._unsettled = False  # a write has failed half done
        self._lock = asyncio.Lock()  # a version that is being replaced must not be removed at the same time

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
            ids = [row["id"] for row in rows_of_documents]
            old = [
                _footprint(row_to_document("", row), row["id"])
                for row in document_rows(client, names, ids, timeout=timeout)
            ]
            new = [_footprint(item.document, document_row(item.document.key)) for item in documents]
            old = [footprint for footprint in old if footprint not in new]
            intents = self._intend(client, [*old, *new], timeout=timeout)
            # Inserting is several times cheaper; after a death in between, rows may be there already.
            write = client.insert if run == 1 else client.upsert
            for name, rows in ((names.texts, rows_of_texts), (names.chunks, rows_of_chunks)):
                for some in slices(rows, ROWS_PER_CALL):
                    write(name, some, timeout=timeout)
            client.upsert(names.documents, rows_of_documents, timeout=timeout)
            self._erase(client, old, timeout=timeout)
            _delete(client, names.meta, intents, timeout=timeout)

        await self._change(do)

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document; its row goes first, and with it every chunk from sight."""
        row = document_row(document.key)

        def do(client: Any, timeout: float) -> None:
            found = document_rows(client, self._names, [row], timeout=timeout)
            footprints = {_footprint(row_to_document("", item), row) for item in found} | {_footprint(document, row)}
            intents = self._intend(client, sorted(footprints), timeout=timeout)
            _delete(client, self._names.documents, [row], timeout=timeout)
            self._erase(client, footprints, timeout=timeout)
            _delete(client, self._names.meta, intents, timeout=timeout)

        await self._change(do)

    async def _change(self, do: Callable[[Any, float], None]) -> None:
        def settled(client: Any, timeout: float) -> None:
            if self._unsettled:
                self.settle_all(client)
            self._unsettled = True
            do(client, timeout)
            self._unsettled = False

        async with self._lock:
            await self._connection.call(settled)

    # -- inside a call: blocking, in a thread ------------------------------------------------------------------------

    def settle_all(self, client: Any) -> None:
        """Finishes what a crash has left half done: removes every intended version that is not live."""
        until = time.time_ns() // 1000 - (0 if self._connection.embedded else _GRACE_US)
        where = f'id > "intent/" and id < "intent0" and created <= {until:d}'
        timeout = _SETTLE_TIMEOUT_S
        while rows := client.query(
            self._names.meta, filter=where, limit=100, output_fields=["id", "value"], timeout=timeout
        ):
            for row in rows:
                footprints = [(str(f[0]), str(f[1]), int(f[2]), int(f[3])) for f in json.loads(row["value"])]
                ids = sorted({footprint[0] for footprint in footprints})
                found = document_rows(client, self._names, ids, timeout=timeout)
                live = {(document["id"], document["version"]) for document in found}
                stale = [footprint for footprint in footprints if footprint[:2] not in live]
                self._erase(client, stale, timeout=timeout)
                _delete(client, self._names.meta, [row["id"]], timeout=timeout)
                log.info("settled an interrupted write", extra={"versions_removed": len(stale)})

    def _intend(self, client: Any, footprints: Sequence[Footprint], *, timeout: float) -> list[str]:
        """Records which versions a write touches; returns the intents' keys."""
        now = time.time_ns() // 1000
        rows = [
            {"id": f"intent/{uuid.uuid4().hex}", "value": json.dumps(some), "created": now, "vector": NO_VECTOR}
            for some in slices(footprints, _DOCUMENTS_PER_INTENT)
        ]
        client.insert(self._names.meta, rows, timeout=timeout)
        return [str(row["id"]) for row in rows]

    def _erase(self, client: Any, footprints: Iterable[Footprint], *, timeout: float) -> None:
        """Removes the chunks and texts of versions; none of them may be live."""
        chunks, texts = [], []
        for row, version, num_chunks, parts in footprints:
            chunks += part_rows(row, version, num_chunks)
            texts += part_rows(row, version, parts)
        _delete(client, self._names.chunks, chunks, timeout=timeout)
        _delete(client, self._names.texts, texts, timeout=timeout)


def _delete(client: Any, name: str, ids: Sequence[str], *, timeout: float) -> None:
    for some in slices(ids, _IDS_PER_CALL):
        client.delete(name, ids=some, timeout=timeout)


def _footprint(document: StoredDocument, row: str) -> Footprint:
    return row, document.version, document.num_chunks, num_parts(document.num_characters)
