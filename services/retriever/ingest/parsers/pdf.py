"""Reads PDF: lines grouped into paragraphs by their distance, headings by their size, ruled tables as tables."""

from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pdfplumber
from pdfminer.pdfdocument import PDFPasswordIncorrect
from pdfplumber.utils.exceptions import PdfminerException

from services.retriever.domain import Kind
from services.retriever.ingest.parsers.canonical import Builder, Extracted
from services.retriever.ingest.parsers.columns import in_order
from services.retriever.ingest.reasons import refusal

_MAX_PAGES = 5_000
_MAX_HEADING = 200
_HEADING_RATIO = 1.12  # of the body's font size
_MAX_EDGES = 5_000  # of what may be tables; a page with more is a drawing, and to look for tables takes very long

_PUNCTUATION = ".,;:!?()[]\"'“”‘’"


@dataclass(frozen=True)
class _Item:
    """Is a line of text, or a table in place of one."""

    page: int
    top: float
    bottom: float
    text: str = ""
    size: float = 0.0
    rows: tuple[tuple[str, ...], ...] = ()


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the text of all pages; a PDF without a text layer yields none."""
    items: list[_Item] = []
    try:
        with pdfplumber.open(BytesIO(data)) as document:
            if len(document.pages) > _MAX_PAGES:
                raise refusal("TOO_MANY_PAGES", f"the document has more than {_MAX_PAGES} pages")
            length = 0
            for page in document.pages:
                found = _page(page)
                page.close()  # frees what the page has cached
                items += found
                length += sum(len(item.text) for item in found)
                if length > max_characters:
                    raise refusal("TOO_LARGE", f"the document holds more than {max_characters} characters of text")
    except PdfminerException as error:
        if error.args and isinstance(error.args[0], PDFPasswordIncorrect):
            raise refusal("ENCRYPTED", "the document is encrypted") from None
        raise
    return _assemble(items, max_characters)


def _page(page: Any) -> list[_Item]:
    number = page.page_number
    tables = page.find_tables() if len(page.edges) <= _MAX_EDGES else []
    items = []
    for table in tables:
        rows = tuple(tuple(cell or "" for cell in row) for row in table.extract())
        items.append(_Item(page=number, top=table.bbox[1], bottom=table.bbox[3], rows=rows))
    boxes = [table.bbox for table in tables]
    rest = page.filter(lambda thing: not _inside(thing, boxes)) if boxes else page
    lines = rest.extract_text_lines(strip=True, return_chars=True)
    # Where tables are, columns are not looked for: what stands beside a table belongs to it as often as not.
    for line in lines if tables else in_order(lines, float(page.width)):
        sizes = Counter(round(char["size"], 1) for char in line["chars"])
        size = sizes.most_common(1)[0][0] if sizes else 0.0
        items.append(_Item(page=number, top=line["top"], bottom=line["bottom"], text=line["text"], size=size))
    return sorted(items, key=lambda item: item.top) if tables else items


def _inside(thing: Any, boxes: list[tuple[float, float, float, float]]) -> bool:
    across, down = (thing["x0"] + thing["x1"]) / 2, (thing["top"] + thing["bottom"]) / 2
    return any(x0 <= across <= x1 and top <= down <= bottom for x0, top, x1, bottom in boxes)


def _assemble(items: list[_Item], max_characters: int) -> Extracted:
    weights: Counter[float] = Counter()
    for item in items:
        weights[item.size] += len(item.text)
    body = weights.most_common(1)[0][0] if weights else 0.0
    larger = {item.size for item in items if item.text and item.size > body * _HEADING_RATIO}
    levels = {size: level for level, size in enumerate(sorted(larger, reverse=True), start=1)}
    builder = Builder(max_characters)
    words = {word.strip(_PUNCTUATION).lower() for item in items for word in item.text.split()}
    open_lines: list[_Item] = []

    def end_paragraph() -> None:
        if open_lines:
            text = _join([line.text for line in open_lines], words)
            level = levels.get(open_lines[0].size, 0) if len(text) <= _MAX_HEADING else 0
            kind = Kind.HEADING if level else Kind.PARAGRAPH
            builder.add(kind, text, level=min(level, 6), page=open_lines[0].page)
            open_lines.clear()

    for item in items:
        if item.rows:
            end_paragraph()
            builder.table(item.rows, page=item.page)
            continue
        if open_lines and not _continues(open_lines[-1], item):
            end_paragraph()
        open_lines.append(item)
    end_paragraph()
    return builder.build()


def _continues(above: _Item, line: _Item) -> bool:
    """Tells whether a line belongs to the paragraph of the line above it."""
    gap, height = line.top - above.bottom, above.bottom - above.top
    return line.page == above.page and abs(line.size - above.size) < 0.5 and -height < gap < 0.75 * height


def _join(lines: list[str], words: set[str]) -> str:
    """Joins lines; a hyphen at the end of one goes unless the document writes the word with it elsewhere."""
    parts = [lines[0]]
    for line in lines[1:]:
        above = parts[-1]
        if not above.endswith("-") or not line[:1].islower() or len(above) < 3 or not above[-2].isalpha():
            parts += [" ", line]
            continue
        first, second = above.rsplit(maxsplit=1)[-1], line.split(maxsplit=1)[0].rstrip(_PUNCTUATION)
        kept = (first + second).strip(_PUNCTUATION).lower() in words
        parts[-1] = above if kept else above[:-1]
        parts.append(line)
    return "".join(parts)
