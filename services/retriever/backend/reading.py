"""What the store reads: documents' rows, texts, and rankings of chunks."""

import asyncio
from collections.abc import Sequence
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.documents import DocumentRows
from services.retriever.backend.keys import document_row, in_view, literal, visible
from services.retriever.backend.known import KnownDocuments
from services.retriever.backend.rows import (
    CHUNK_FIELDS,
    NEAR_FIELDS,
    ROWS_PER_CALL,
    around,
    covering,
    cut_out,
    entity_to_hit,
    entity_to_near,
    outline_ids,
    row_to_document,
    slices,
    text_ids,
)
from services.retriever.backend.schema import Names
from services.retriever.backend.snapshots import SnapshotRows
from services.retriever.domain import Block, DocumentKey, Hit, Near, StoredDocument, Vector, View, load_outline
from tandem.errors import NotFound, Unavailable
from tandem.security import Principal

_TEXTS_PER_CALL = 32
_TRIES, _RECOUNT_S = 5, 0.05  # of a ranking by BM25 that met a removal
_KEPT_CHARACTERS = 4_096  # of a document's record, which bounds what all that are kept take up


class Reading:
    """Reads the collections."""

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

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions of those documents that exist."""
        if not keys:
            return {}
        by_row, live = {document_row(key): key for key in keys}, self._snapshots.catalogue.live_key
        found = self._known.of(by_row, live=live)
        missing = [row for row in by_row if row not in found]
        if missing:
            with self._known.reading(live=live) as read:
                for row in await self._connection.call(
                    lambda client, timeout: self._documents.get(client, missing, timeout=timeout)
                ):
                    found[row["id"]] = row_to_document(row, live=live)
                    if len(row["record"]) <= _KEPT_CHARACTERS:
                        read[row["id"]] = found[row["id"]]
        return {by_row[row]: document for row, document in found.items()}

    async def page(self, principal: Principal, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns documents past the id `after`; Milvus gives the rows of a limited query by primary key."""
        start = document_row(DocumentKey(principal.tenant, after))
        where = f"{visible(principal)} and id > {literal(start)}"

        documents = [self._document(row) for row in await self._page(where, limit)]
        return sorted(documents, key=lambda document: document.key.document_id)

    async def scan(self, *, after: str, limit: int) -> tuple[list[StoredDocument], str]:
        """Returns documents of all tenants past the row `after`, and the row to go on from."""
        rows = sorted(await self._page(f"id > {literal(after)}", limit), key=lambda row: str(row["id"]))
        return [self._document(row) for row in rows], str(rows[-1]["id"]) if len(rows) == limit else ""

    async def count(self) -> int:
        """Returns the number of documents of all tenants."""

        def do(client: Any, timeout: float) -> int:
            return self._documents.count(client, timeout=timeout)

        return await self._connection.call(do)

    async def _page(self, where: str, limit: int) -> list[Any]:
        def do(client: Any, timeout: float) -> list[Any]:
            return self._documents.page(client, where, limit=limit, timeout=timeout)

        return await self._connection.call(do)

    def _document(self, row: Any) -> StoredDocument:
        return row_to_document(row, live=self._snapshots.catalogue.live_key)

    async def text(self, document: StoredDocument) -> str:
        """Returns the extracted text of a version."""
        return await self._whole(text_ids(document))

    async def outlined(self, document: StoredDocument) -> tuple[str, Sequence[Block]]:
        """Returns the extracted text of a version and its blocks."""
        ids = outline_ids(document)
        whole = await self._whole([*text_ids(document), *ids])
        text, outline = whole[: document.num_characters], whole[document.num_characters :]
        return text, load_outline(outline, length=len(text))

    async def _whole(self, ids: Sequence[str]) -> str:
        parts = await self._parts(ids)
        if len(parts) != len(ids):
            raise NotFound("the document has just been replaced or deleted")
        return "".join(parts[row_id] for row_id in ids)

    async def _parts(self, ids: Sequence[str]) -> dict[str, str]:
        def do(client: Any, timeout: float) -> dict[str, str]:
            parts: dict[str, str] = {}
            for some in slices(ids, _TEXTS_PER_CALL):
                rows = client.get(self._names.texts, ids=some, output_fields=["id", "text"], timeout=timeout)
                parts.update((row["id"], row["text"]) for row in rows)
            return parts

        return await self._connection.call(do)

    async def search_dense(self, vector: Vector, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks what the view allows by cosine similarity."""
        return await self._search(list(vector), view, field="dense", snapshot=snapshot, limit=limit)

    async def search_sparse(self, query: str, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks what the view allows by BM25."""
        return await self._search(query, view, field="sparse", snapshot=snapshot, limit=limit)

    async def _search(self, what: str | list[float], view: View, *, field: str, snapshot: str, limit: int) -> list[Hit]:
        for _ in range(_TRIES):
            hits = await self._connection.search(
                self._names.chunks_of(snapshot),
                _excused,
                data=[what],
                anns_field=field,
                filter=in_view(view),
                limit=limit,
                output_fields=CHUNK_FIELDS,
            )
            if hits is not None:
                return [entity_to_hit(view.principal.tenant, hit) for hit in hits]
            await asyncio.sleep(_RECOUNT_S)
        raise Unavailable("Milvus is counting words anew", retry_after_s=1.0)

    async def vectors(self, row_ids: Sequence[str], *, snapshot: str) -> dict[str, Vector]:
        """Returns the vectors of hits."""
        rows = await self._chunks(row_ids, fields=["id", "dense"], snapshot=snapshot)
        return {row["id"]: row["dense"] for row in rows}

    async def neighbours(self, hits: Sequence[Hit], *, distance: int, snapshot: str) -> dict[str, list[Near]]:
        """Returns what lies around hits: their keys say which rows to ask for."""
        wanted = {hit.row_id: around(hit, distance) for hit in hits}
        ids = sorted({row_id for near in wanted.values() for row_id in near})
        found = {
            row["id"]: entity_to_near(row) for row in await self._chunks(ids, fields=NEAR_FIELDS, snapshot=snapshot)
        }
        return {row_id: [found[near] for near in some if near in found] for row_id, some in wanted.items()}

    async def excerpts(self, ranges: Sequence[tuple[StoredDocument, int, int]]) -> list[str | None]:
        """Returns ranges of extracted texts, read by no more parts than they lie in."""
        wanted = [covering(*some) for some in ranges]
        parts = await self._parts(sorted({row_id for some in wanted for row_id in some}))
        return [
            cut_out([parts[row_id] for row_id in some], start, end) if all(row_id in parts for row_id in some) else None
            for some, (_, start, end) in zip(wanted, ranges, strict=True)
        ]

    async def _chunks(self, ids: Sequence[str], *, fields: Sequence[str], snapshot: str) -> list[Any]:
        def do(client: Any, timeout: float) -> list[Any]:
            found: list[Any] = []
            for some in slices(ids, ROWS_PER_CALL):
                name = self._names.chunks_of(snapshot)
                found += client.get(name, ids=some, output_fields=list(fields), timeout=timeout)
            return found

        return await self._connection.call(do)


def _excused(error: Exception) -> list[Any] | None:
    """Returns no hits where there cannot be any, None where a ranking is to be made again; else raises the error."""
    if _has_no_words_yet(error):
        return []
    if _counts_words(error):
        return None
    raise error


def _has_no_words_yet(error: Exception) -> bool:
    """Tells whether Milvus Lite refused to rank by BM25 as its collection never held a chunk: it divides 0 by 0.

    Its count of words begins with the first insertion, and what is removed leaves it in order.
    """
    return "Invalid sparse row: NaN or Inf value" in str(error)


def _counts_words(error: Exception) -> bool:
    """Tells whether Milvus Lite failed to rank by BM25 as chunks were being removed.

    For a moment it counts fewer chunks than there are with a word, whose weight is negative then.
    """
    return "Invalid sparse row: negative value" in str(error)
