"""What a search asks for, may see and finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from services.retriever.domain.documents import Chunk, DocumentKey, StoredDocument, Vector
from tandem.security import Principal


class Mode(Enum):
    """Chooses the rankings that a search consults."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Condition:
    """Wants a label to have one of the values; no values: to be there. Excluded: wants the opposite."""

    key: str
    values: frozenset[str] = frozenset()
    excluded: bool = False

    def admits(self, attributes: Mapping[str, str]) -> bool:
        """Tells whether a document with these attributes is wanted."""
        holds = self.key in attributes and (not self.values or attributes[self.key] in self.values)
        return holds is not self.excluded


@dataclass(frozen=True)
class Filter:
    """Narrows a search to documents for which all holds that is set; never widens it."""

    document_ids: frozenset[str] = frozenset()
    media_types: frozenset[str] = frozenset()
    conditions: tuple[Condition, ...] = ()
    updated_since: int | None = None

    def admits(self, document: StoredDocument) -> bool:
        """Tells whether a document is wanted."""
        return (
            (not self.document_ids or document.key.document_id in self.document_ids)
            and (not self.media_types or document.header.media_type in self.media_types)
            and (self.updated_since is None or document.update_time >= self.updated_since)
            and all(condition.admits(document.header.attributes) for condition in self.conditions)
        )


@dataclass(frozen=True)
class View:
    """Is what one search may see: the principal is the caller's identity; what the request says can only narrow it."""

    principal: Principal
    moment: int
    filter: Filter = Filter()

    def shows(self, document: StoredDocument) -> bool:
        """Tells whether the document may be seen, is in force and is wanted."""
        return document.open_to(self.principal) and document.valid_at(self.moment) and self.filter.admits(document)


@dataclass(frozen=True)
class ReciprocalRank:
    """Fuses by places: each ranking adds its weight / (k + rank); the weights are halves of 2 unless set."""

    k: int = 60
    dense_weight: float = 0.5


@dataclass(frozen=True)
class Weighted:
    """Fuses by scores: cosine, and BM25 in tenths of its mean among the best of its ranking."""

    dense_weight: float = 0.5


Fusion = ReciprocalRank | Weighted


@dataclass(frozen=True)
class Wish:
    """Is a search as it is asked for; None leaves the choice to the configuration.

    No vector: the embedder is asked, as it is where vector_model, the SHA-256 of the weights that the vector comes
    from, is not that of the snapshot's. No moment: now. No snapshot: the live one.
    """

    query: str
    vector: Vector = ()
    vector_model: str = ""
    top_k: int = 5
    mode: Mode = Mode.HYBRID
    moment: int | None = None
    filter: Filter = Filter()
    fusion: Fusion | None = None
    diversity: float = 0.0
    num_neighbors: int = 0
    keep_duplicates: bool = False
    rerank: bool | None = None
    snapshot: str = ""


@dataclass(frozen=True)
class Hit:
    """Is a chunk in a ranking, best first; version tells which version of the document it was cut from.

    ordinal is the chunk's place in its document, from 0; score is the ranking's own: cosine or BM25.
    """

    row_id: str
    key: DocumentKey
    version: str
    chunk: Chunk
    text: str
    ordinal: int = 0
    score: float = 0.0


class Near(NamedTuple):
    """Is the place and the range of a chunk that lies beside a hit in its document."""

    ordinal: int
    start: int
    end: int


@dataclass(frozen=True)
class Passage:
    """Is a chunk that answers a search. text is the chunk's, or that of `span` where neighbours widened it."""

    document: StoredDocument
    chunk: Chunk
    text: str
    score: float
    dense_rank: int | None = None
    sparse_rank: int | None = None
    dense_score: float | None = None
    sparse_score: float | None = None
    rerank_score: float | None = None
    span: tuple[int, int] | None = None

    @property
    def chunk_id(self) -> str:
        """A name that stays while content and chunking stay."""
        digest = self.document.content_sha256[:12]
        return f"{self.document.key.document_id}@{digest}:{self.chunk.start}-{self.chunk.end}"
