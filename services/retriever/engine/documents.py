"""Describes, lists and deletes documents."""

from services.retriever.domain import DocumentKey, Store, StoredDocument
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import NotFound
from tandem.security import Principal


class Documents:
    """Answers about single documents; what the principal may not see does not exist."""

    def __init__(self, *, store: Store, metrics: RetrieverMetrics) -> None:
        self._store = store
        self._metrics = metrics

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
