"""What the store reads: documents' rows, texts, and rankings of chunks."""

from collections.abc import Iterable, Sequence
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.keys import document_row, in_view, literal, visible
from services.retriever.backend.rows import CHUNK_FIELDS, DOCUMENT_FIELDS, entity_to_hit, row_to_document, text_ids
from services.retriever.backend.schema import Names
from services.retriever.domain import DocumentKey, Hit, StoredDocument, Vector, View
from tandem.errors import NotFound
from tandem.security import Principal

ROWS_PER_CALL = 250
_TEXTS_PER_CALL = 32


class Reading:
    """Reads the collections."""

    def __init__(self, connection: MilvusConnection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions of those documents that exist."""
        if not keys:
            return {}
        by_row = {document_row(key): key for key in keys}

        def do(client: Any, timeout: float) -> list[Any]:
            return document_rows(client, self._names, list(by_row), timeout=timeout)

        rows = await self._connection.call(do)
        return {by_row[row["id"]]: row_to_document(by_row[row["id"]].tenant, row) for row in rows}

    async def page(self, principal: Principal, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns documents past the id `after`; Milvus gives the rows of a limited query by primary key."""
        start = document_row(DocumentKey(principal.tenant, after))
        where = f"{visible(principal)} and id > {literal(start)}"

        def do(client: Any, timeout: float) -> list[Any]:
            return list(
                client.query(
                    self._names.documents, filter=where, limit=limit, output_fields=DOCUMENT_FIELDS, timeout=timeout
                )
            )

        documents = [row_to_document(principal.tenant, row) for row in await self._connection.call(do)]
        return sorted(documents, key=lambda document: document.key.document_id)

    async def text(self, document: StoredDocument) -> str:
        """Returns the extracted text of a version."""
        ids = text_ids(document)

        def do(client: Any, timeout: float) -> dict[str, str]:
            parts: dict[str, str] = {}
            for some in slices(ids, _TEXTS_PER_CALL):
                rows = client.get(self._names.texts, ids=some, output_fields=["id", "text"], timeout=timeout)
                parts.update((row["id"], row["text"]) for row in rows)
            return parts

        parts = await self._connection.call(do)
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

        return [entity_to_hit(view.principal.tenant, hit) for hit in await self._connection.call(do)]


def document_rows(client: Any, names: Names, ids: Sequence[str], *, timeout: float) -> list[Any]:
    """Returns the rows of documents; blocking, for a thread."""
    found: list[Any] = []
    for some in slices(ids, ROWS_PER_CALL):
        found += client.get(names.documents, ids=some, output_fields=DOCUMENT_FIELDS, timeout=timeout)
    return found


def slices(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Yields the items in pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
