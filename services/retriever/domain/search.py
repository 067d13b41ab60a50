"""What a search asks for, may see and finds."""

from dataclasses import dataclass
from enum import Enum

from services.retriever.domain.documents import Chunk, DocumentKey, StoredDocument
from tandem.security import Principal


@dataclass(frozen=True)
class View:
    """Is what one search may see: made from the caller's identity, never from the request, and a moment."""

    principal: Principal
    moment: int


@dataclass(frozen=True)
class Hit:
    """Is a chunk in a ranking, best first; version tells which version of the document it was cut from."""

    row_id: str
    key: DocumentKey
    version: str
    chunk: Chunk
    text: str


@dataclass(frozen=True)
class Passage:
    """Is a chunk that answers a search."""

    document: StoredDocument
    chunk: Chunk
    text: str
    score: float
    dense_rank: int | None = None
    sparse_rank: int | None = None

    @property
    def chunk_id(self) -> str:
        """A name that stays while content and chunking stay."""
        digest = self.document.content_sha256[:12]
        return f"{self.document.key.document_id}@{digest}:{self.chunk.start}-{self.chunk.end}"


class Mode(Enum):
    """Chooses the rankings that a search consults."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"
