"""Reads Word documents (.docx): headings by style, paragraphs, lists and tables in the order of the body."""

import re
import zipfile
from io import BytesIO
from typing import Any

import docx
from docx.table import Table

from services.retriever.domain import Kind, Unreadable
from services.retriever.ingest.parsers.canonical import Builder, Extracted

# A document of 32 MiB that unpacks to more than this is an attack on the reader.
_MAX_UNPACKED = 256 * 1024 * 1024
_MAX_ENTRIES = 10_000
_HEADING = re.compile(r"heading (\d)")


def extract(data: bytes) -> Extracted:
    """Returns the text of the body."""
    _check_archive(data)
    builder = Builder()
    items: list[str] = []

    def end_list() -> None:
        builder.add(Kind.LIST, "\n".join(items))
        items.clear()

    for part in docx.Document(BytesIO(data)).iter_inner_content():
        if isinstance(part, Table):
            end_list()
            builder.table(_rows(part))
            continue
        style = ((part.style and part.style.name) or "").lower()
        if style.startswith("list") and part.text.strip():
            items.append(f"{'1.' if 'number' in style else '-'} {part.text.strip()}")
            continue
        end_list()
        heading = _HEADING.fullmatch(style)
        if heading or style == "title":
            builder.add(Kind.HEADING, part.text, level=int(heading[1]) if heading else 1)
        else:
            builder.add(Kind.PARAGRAPH, part.text)
    end_list()
    return builder.build()


def _check_archive(data: bytes) -> None:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES or sum(entry.file_size for entry in entries) > _MAX_UNPACKED:
            raise Unreadable("TOO_LARGE", "the document unpacks to more than is read")
        if any(entry.flag_bits & 1 for entry in entries):
            raise Unreadable("ENCRYPTED", "the document is encrypted")


def _rows(table: Any) -> list[list[str]]:
    rows = []
    for row in table.rows:
        cells, before = [], None
        for cell in row.cells:  # a merged cell comes once for each column that it spans
            cells.append("" if cell._tc is before else cell.text)
            before = cell._tc
        rows.append(cells)
    return rows
