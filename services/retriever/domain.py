"""What the retriever speaks about, and the ports that its rooms meet through. Standard library only.

Times are microseconds since 1970 in UTC; offsets are Unicode code points of the extracted text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from tandem.errors import InvalidInput
from tandem.security import Principal

MARKDOWN = "text/markdown"
PLAIN = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
MEDIA_TYPES = {".md": MARKDOWN, ".markdown": MARKDOWN, ".txt": PLAIN, ".html": HTML, ".htm": HTML, ".pdf": PDF,
               ".docx": DOCX}  # fmt: skip
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024

Vector = Sequence[float]


class Kind(Enum):
    """Is what a block of a document is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    TABLE = "table"
    LIST = "list"


@dataclass(frozen=True)
class Block:
    """Is a structural unit [start, end) of the extracted text; title and level (from 1) are those of a heading."""

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""
    page: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Is the range [start, end) of the extracted text that is indexed as one piece, with what leads to it."""

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True)
class ParsedDocument:
    """Is a document as a parser read it and the chunker cut it; title is its first heading or empty."""

    text: str
    chunks: tuple[Chunk, ...]
    title: str = ""


class DocumentKey(NamedTuple):
    """Names a document: ids are unique within a tenant."""

    tenant: str
    document_id: str


@dataclass(frozen=True)
class Header:
    """Says what a document is and who may see it. No groups: the whole tenant; no bound: valid without end."""

    source: str
    media_type: str
    title: str = ""
    groups: tuple[str, ...] = ()
    valid_from: int | None = None
    valid_until: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def digest(self, recipe: str) -> str:
        """Returns a SHA-256 over every field and over the recipe by which the content is processed."""
        row: list[object] = [
            self.source,
            self.media_type,
            self.title,
            sorted(set(self.groups)),
            self.valid_from,
            self.valid_until,
        ]
        row += [sorted(self.attributes.items()), recipe]
        return hashlib.sha256(json.dumps(row).encode()).hexdigest()


@dataclass(frozen=True)
class StoredDocument:
    """Is the live version of a document. header.title is what citations show."""

    key: DocumentKey
    header: Header
    version: str
    content_sha256: str
    header_sha256: str
    num_chunks: int
    num_characters: int
    update_time: int

    def open_to(self, principal: Principal) -> bool:
        """Tells whether the principal may know of this document."""
        if self.key.tenant != principal.tenant:
            return False
        return not self.header.groups or not principal.groups.isdisjoint(self.header.groups)

    def valid_at(self, moment: int) -> bool:
        """Tells whether the content is in force."""
        since, until = self.header.valid_from, self.header.valid_until
        return (since is None or since <= moment) and (until is None or moment < until)


@dataclass(frozen=True)
class NewChunk:
    """Is a chunk on its way into the store. content is prefix (title, headings) + text; the vector is content's."""

    chunk: Chunk
    content: str
    prefix_length: int
    vector: Vector


@dataclass(frozen=True)
class NewDocument:
    """Is a document version on its way into the store."""

    document: StoredDocument
    text: str
    chunks: Sequence[NewChunk]


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


@dataclass(frozen=True)
class EmbeddingModel:
    """Names the weights that vectors come from."""

    name: str
    sha256: str
    dimension: int


@dataclass(frozen=True)
class Embedded:
    """Is one vector for each text, and the model that made them."""

    vectors: Sequence[Vector]
    model: EmbeddingModel


class Unreadable(InvalidInput):
    """Says why a document was rejected; reason is one of parse failures' stable words."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


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
