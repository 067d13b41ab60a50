"""Reads plain text: paragraphs are what blank lines separate."""

import re

from services.retriever.domain import Block, Kind
from services.retriever.ingest.parsers.canonical import Extracted, decode

PARAGRAPH = re.compile(r"\S.*(?:\n(?!\s*\n).*)*")


def extract(data: bytes, _: int) -> Extracted:
    """Returns the source text, its paragraphs as blocks."""
    text = decode(data)
    blocks = [Block(kind=Kind.PARAGRAPH, start=m.start(), end=m.end()) for m in PARAGRAPH.finditer(text)]
    return Extracted(text=text, blocks=tuple(blocks))
