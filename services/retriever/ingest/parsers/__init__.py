"""Readers of the formats. They run in a worker process only: their input is nobody's friend.

Each takes the bytes and the most characters that are wanted, and returns the canonical text with its blocks, or raises
Unreadable.
"""

from importlib import import_module

from services.retriever.domain import CSV, DOCX, EMAIL, HTML, MARKDOWN, PDF, PLAIN, XLSX
from services.retriever.ingest.parsers.canonical import MAX_CHARACTERS, Extracted
from services.retriever.ingest.reasons import refusal

_ROOMS = {MARKDOWN: "markdown", PLAIN: "plain", HTML: "html", PDF: "pdf", DOCX: "docx", XLSX: "workbook",
          CSV: "delimited", EMAIL: "mail"}  # fmt: skip


def extract(data: bytes, media_type: str, *, max_characters: int = MAX_CHARACTERS) -> Extracted:
    """Reads a document of a known media type; raises Unreadable, or whatever a parser library raises."""
    if media_type not in _ROOMS:
        raise refusal("UNSUPPORTED_MEDIA_TYPE", f"media type {media_type!r} is not supported")
    # Each library is imported when its format first comes: a worker that reads Markdown needs no PDF code.
    room = import_module(f"{__name__}.{_ROOMS[media_type]}")
    extracted: Extracted = room.extract(data, max_characters)
    return extracted
