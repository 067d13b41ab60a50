"""Places in texts, and what ties an answer to a document."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Is a half-open range of characters."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Ties a part of the answer to a part of a document's extracted text."""

    answer_span: Span
    document_id: str
    chunk_id: str
    title: str
    document_span: Span
    quote: str
    page: int | None = None
