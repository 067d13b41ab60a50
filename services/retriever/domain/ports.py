"""The ports that the retriever's rooms meet through."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from services.retriever.domain.documents import (
    Block,
    DocumentKey,
    NewChunk,
    NewDocument,
    ParsedDocument,
    StoredDocument,
    Vector,
)
from services.retriever.domain.models import Embedded, EmbeddingModel
from services.retriever.domain.search import Hit, Near, View
from services.retriever.domain.snapshots import Catalogue, Snapshot
from tandem.security import Principal


class Embedder(Protocol):
    """Turns text into vectors."""

    async def embed(self, texts: Sequence[str], *, model: EmbeddingModel | None = None) -> Embedded:
        """Returns a vector for each text, by that model or by whichever is served first.

        Raises Unavailable when the peer cannot be reached, FailedPrecondition when none serves the model.
        """
        ...

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Returns for each text how well it answers; raises FailedPrecondition where there is no reranker."""
        ...


class Parser(Protocol):
    """Reads the bytes of a document that nobody vouches for."""

    async def parse(self, data: bytes, media_type: str) -> ParsedDocument:
        """Returns text and chunks; raises Unreadable."""
        ...


class Store(Protocol):
    """Keeps documents and ranks their chunks. Raises Unavailable when it cannot be reached in time."""

    @property
    def catalogue(self) -> Catalogue:
        """The snapshots as far as this process knows; what another replica changed is known a little later."""
        ...

    async def change(self, decide: Callable[[Catalogue], Catalogue]) -> Catalogue:
        """Makes what decide returns the catalogue, durable and at once; nothing is written meanwhile."""
        ...

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the live versions of those documents that exist, whoever may see them."""
        ...

    async def put(self, documents: Sequence[NewDocument]) -> None:
        """Makes the versions durable and live; each document flips from its old version to the new one at once.

        Raises SnapshotsChanged, and writes nothing, when chunks for one of catalogue.written are missing.
        """
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

    @property
    def bm25(self) -> bool:
        """Tells whether it ranks by BM25; search_sparse works only then."""
        ...

    def hold(self, snapshot_id: str) -> AbstractContextManager[Snapshot]:
        """Keeps a snapshot for as long as it is searched; the live one for an empty id.

        Raises NotFound for an unknown one, FailedPrecondition for one that is not whole. What follows about chunks
        takes its key.
        """
        ...

    async def search_dense(self, vector: Vector, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks what the view allows by similarity; may hold chunks of versions that are not live."""
        ...

    async def search_sparse(self, query: str, view: View, *, snapshot: str, limit: int) -> list[Hit]:
        """Ranks what the view allows by BM25; may hold chunks of versions that are not live."""
        ...

    async def vectors(self, row_ids: Sequence[str], *, snapshot: str) -> dict[str, Vector]:
        """Returns the vectors of hits; those that are gone are missing."""
        ...

    async def neighbours(self, hits: Sequence[Hit], *, distance: int, snapshot: str) -> dict[str, list[Near]]:
        """Returns by row_id the hit's version's chunks at most so many places away, itself too, by ordinal."""
        ...

    async def excerpts(self, ranges: Sequence[tuple[StoredDocument, int, int]]) -> list[str | None]:
        """Returns ranges [start, end) of extracted texts; None where the version is no longer there."""
        ...

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the model of the live snapshot's vectors if none is recorded.

        Raises FailedPrecondition when another one is, or when its vectors do not fit.
        """
        ...


class SnapshotStore(Store, Protocol):
    """Is what building, dropping and comparing snapshots needs besides."""

    async def refresh(self) -> Catalogue:
        """Reads the catalogue anew."""
        ...

    async def make(self, snapshot: Snapshot) -> None:
        """Makes room for the chunks of a snapshot that is in no catalogue yet."""
        ...

    async def drop(self, snapshot: Snapshot) -> bool:
        """Removes the chunks of a dropped snapshot; does nothing and returns False while searches may hold it."""
        ...

    async def count(self) -> int:
        """Returns the number of documents of all tenants."""
        ...

    async def scan(self, *, after: str, limit: int) -> tuple[list[StoredDocument], str]:
        """Returns the first documents of all tenants past a place, "" being the first, and the next place or ""."""
        ...

    async def outlined(self, document: StoredDocument) -> tuple[str, Sequence[Block]]:
        """Returns the text of a version and its blocks; raises NotFound when the version is no longer there."""
        ...

    async def fill(self, key: str, filling: Sequence[tuple[StoredDocument, Sequence[NewChunk]]]) -> None:
        """Puts chunks of versions that are there into a snapshot; those that were replaced meanwhile are left out."""
        ...
