"""Readers of the five formats. They run in a worker process only: their input is nobody's friend.

Each takes the bytes and returns the canonical text with its blocks, or raises Unreadable.
"""

from services.retriever.domain import DOCX, HTML, MARKDOWN, PDF, PLAIN, Unreadable
from services.retriever.ingest.parsers.canonical import Extracted


def extract(data: bytes, media_type: str) -> Extracted:
    """Reads a document of a known media type; raises Unreadable, or whatever a parser library raises."""
    # Each library is imported when its format first comes: a worker that reads Markdown needs no PDF code.
    if media_type == MARKDOWN:
        from services.retriever.ingest.parsers import markdown

        return markdown.extract(data)
    if media_type == PLAIN:
        from services.retriever.ingest.parsers import plain

        return plain.extract(data)
    if media_type == HTML:
        from services.retriever.ingest.parsers import html

        return html.extract(data)
    if media_type == PDF:
        from services.retriever.ingest.parsers import pdf

        return pdf.extract(data)
    if media_type == DOCX:
        from services.retriever.ingest.parsers import docx

        return docx.extract(data)
    raise Unreadable("UNSUPPORTED_MEDIA_TYPE", f"media type {media_type!r} is not supported")
