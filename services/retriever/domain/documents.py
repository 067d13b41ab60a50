"""What the retriever keeps: documents, their chunks, and who may see them.

Times are microseconds since 1970 in UTC; offsets are Unicode code points of the extracted text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from tandem.errors import InvalidInput
from tandem.security import Principal

MARKDOWN = "text/markdown"
PLAIN = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CSV = "text/csv"
EMAIL = "message/rfc822"
MEDIA_TYPES = {".md": MARKDOWN, ".markdown": MARKDOWN, ".txt": PLAIN, ".html": HTML, ".htm": HTML, ".pdf": PDF,
               ".docx": DOCX, ".xlsx": XLSX, ".csv": CSV, ".tsv": CSV, ".eml": EMAIL}  # fmt: skip
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
    """Is the range [start, end) of the extracted text that is indexed as one piece, with what leads to it.

    table_head is the range of the row that heads the table which the chunk goes on with.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    table_head: tuple[int, int] | None = None


@dataclass(frozen=True)
class ParsedDocument:
    """Is a document as a parser read it and the chunker cut it; title is its first heading or empty.

    blocks are in order and apart; with them the text can be cut anew.
    """

    text: str
    chunks: tuple[Chunk, ...]
    title: str = ""
    blocks: tuple[Block, ...] = ()


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


class Cut(NamedTuple):
    """Is what a snapshot made of a document: how many chunks, and a digest of what they are."""

    num_chunks: int
    digest: str


@dataclass(frozen=True)
class StoredDocument:
    """Is the live version of a document. header.title is what citations show.

    num_chunks is that of the live snapshot; cuts holds an entry for the key of every snapshot that has the document.
    """

    key: DocumentKey
    header: Header
    version: str
    content_sha256: str
    header_sha256: str
    num_chunks: int
    num_characters: int
    update_time: int
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    outline_characters: int = 0

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
    """Is a chunk on its way into the store.

    content is prefix (title, headings, head of a table that goes on) + text; the vector is content's.
    """

    chunk: Chunk
    content: str
    prefix_length: int
    vector: Vector


@dataclass(frozen=True)
class NewDocument:
    """Is a document version on its way into the store, with its chunks by the key of the snapshot that they are for."""

    document: StoredDocument
    text: str
    chunks: Mapping[str, Sequence[NewChunk]]
    blocks: Sequence[Block] = ()


class Unreadable(InvalidInput):
    """Says why a document was rejected; reason is one of parse failures' stable words."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)
