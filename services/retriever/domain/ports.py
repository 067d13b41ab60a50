"""The ports that the retriever's rooms meet through."""

from collections.abc import Sequence
from typing import Protocol

from services.retriever.domain.documents import DocumentKey, NewDocument, ParsedDocument, StoredDocument, Vector
from services.retriever.domain.models import Embedded, EmbeddingModel
from services.retriever.domain.search import Hit, View
from tandem.security import Principal


class Embedder(Protocol):
    """Turns text into vectors."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Returns a vector for each text; raises Unavailable when the peer cannot be reached."""
        ...


class Parser(Protocol):
    """Reads the bytes of a document that nobody vouches for."""

    async def parse(self, data: bytes, media_type: str) -> ParsedDocument:
        """Returns text and chunks; raises Unreadable."""
        ...


class Store(Protocol):
    """Keeps documents and ranks their chunks. Raises Unavailable when it cannot be reached in time."""

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions of those documents that exist, whoever may see them."""
        ...

    async def put(self, documents: Sequence[NewDocument]) -> None:
        """Makes the versions durable and live; each document flips from its old version to the new one at once."""
        ...

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document and its chunks."""
        ...

    async def page(self, principal: Principal, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns the first documents past the id `after` that the principal may see, by document_id."""
        ...

    async def text(self, document: StoredDocument) -> str:
        """Returns the extracted text of that version; raises NotFound when the version is no longer there."""
        ...

    async def search_dense(self, vector: Vector, view: View, *, limit: int) -> list[Hit]:
        """Ranks what the view allows by similarity; may hold chunks of versions that are not live."""
        ...

    async def search_sparse(self, query: str, view: View, *, limit: int) -> list[Hit]:
        """Ranks what the view allows by BM25; may hold chunks of versions that are not live."""
        ...

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the model if none is recorded; raises FailedPrecondition when another one is."""
        ...

    def check_model(self, model: EmbeddingModel) -> None:
        """Raises FailedPrecondition when the collection's vectors come from another model."""
        ...
