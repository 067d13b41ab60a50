"""Reads HTML: headings, paragraphs, lists and tables of what a reader would see."""

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from services.retriever.domain import Kind
from services.retriever.ingest.parsers.canonical import Builder, Extracted, decode_as, one_line
from services.retriever.ingest.reasons import refusal

_SKIPPED = frozenset(
    {"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "select", "nav", "textarea"}
)
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "main", "p",
        "pre", "section", "summary", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "menu", "table",
        "caption", "li", "td", "th", "tr",
    }
)  # fmt: skip
_HEADING = re.compile(r"h([1-6])")
_LISTS = frozenset({"ul", "ol", "menu"})
# A table that holds one of these lays a page out; its cells are read one after another.
_PAGE_PARTS = ("table", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_DECLARED = re.compile(rb"<(?:meta[^>]{1,200}?charset|\?xml[^>]{1,100}?encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)")
_DECLARED_WITHIN = 4_096
_MAX_SPAN = 50  # columns or rows of one cell
_MAX_REPEATED = 200

Element = Any


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the visible text; scripts, styles, navigation and hidden elements are left out."""
    builder = Builder(max_characters)
    add_page(builder, data)
    return builder.build()


def add_page(builder: Builder, data: bytes, charset: str = "") -> None:
    """Appends the blocks of a page; a charset that came with it goes before the one that it declares."""
    declared = _DECLARED.search(data[:_DECLARED_WITHIN])
    source = decode_as(data, charset or (declared[1].decode() if declared else ""))
    # Depth and size of a text are bounded by the library (256 and 10 million); it then gives what it has so far.
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    if not source.strip():
        return
    try:
        root = etree.fromstring(source.encode(), parser)
    except etree.XMLSyntaxError:
        root = None  # nothing but comments, or one of these
    faults = {error.type_name: error.message for error in parser.error_log}
    if "ERR_NO_MEMORY" in faults:
        raise MemoryError
    if limit := faults.get("ERR_RESOURCE_LIMIT"):
        if "depth" in limit:
            raise refusal("TOO_DEEP", "the page nests more than 256 elements")
        raise refusal("TOO_LARGE", "the page holds a text of more than 10 million characters")
    if root is not None:
        walk = _Walk(builder, root)
        walk.one(root)
        walk.flush()


def _visible(tag: Element) -> bool:
    attributes = tag.attrib
    if tag.tag in _SKIPPED or "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return False
    return "style" not in attributes or not _HIDDEN.search(attributes["style"])


def _inline(tag: Element, lists: list[Element] | None = None) -> str:
    """Returns the text of an element, its blanks not yet collapsed; lists in it go into `lists` where that is given."""
    parts: list[str] = []

    def gather(node: Element) -> None:
        if node.tag == "br":
            parts.append("\n")
            return
        if lists is not None and node.tag in _LISTS:
            lists.append(node)
            return
        around = " " if node.tag in _BLOCKS else ""
        parts.extend((around, node.text or ""))
        for child in node:
            if _visible(child):
                gather(child)
            parts.append(child.tail or "")
        parts.append(around)

    gather(tag)
    return "".join(parts)


class _Walk:
    def __init__(self, builder: Builder, root: Element) -> None:
        self.builder = builder
        self._run: list[str] = []
        self._with_blocks = set(_ancestors(root))

    def flush(self) -> None:
        """Ends the paragraph that stray text has been gathering."""
        text = "".join(self._run)
        self._run = []
        self.builder.add(Kind.PARAGRAPH, one_line(text))

    def one(self, tag: Element) -> None:
        """Reads an element and what is in it."""
        if tag.tag not in _BLOCKS:
            # An inline element may wrap blocks (a link around a card); its own text joins the run.
            if tag in self._with_blocks:
                self._children(tag)
            else:
                self._run.append(_inline(tag))
            return
        self.flush()
        if heading := _HEADING.fullmatch(tag.tag):
            self.builder.add(Kind.HEADING, one_line(_inline(tag)), level=int(heading[1]))
        elif tag.tag == "table" and not _lays_out(tag):
            self._table(tag)
        elif tag.tag in _LISTS:
            self.builder.add(Kind.LIST, "\n".join(_list(tag, 0)))
        elif tag.tag == "pre":
            self.builder.add(Kind.PARAGRAPH, _inline(tag))
        else:
            self._children(tag)
            self.flush()

    def _children(self, tag: Element) -> None:
        self._run.append(tag.text or "")
        for child in tag:
            if _visible(child):
                self.one(child)
            self._run.append(child.tail or "")

    def _table(self, table: Element) -> None:
        caption = next(table.iterchildren("caption"), None)
        if caption is not None:
            self.builder.add(Kind.PARAGRAPH, one_line(_inline(caption)))
        self.builder.table(_rows(table))


def _ancestors(root: Element) -> Iterator[Element]:
    """Yields what holds a block; whoever keeps them keeps their identity."""
    seen = set()
    for block in root.iter(*_BLOCKS):
        for above in block.iterancestors():
            if above in seen:
                break
            seen.add(above)
            yield above


def _lays_out(table: Element) -> bool:
    if table.get("role") in ("presentation", "none") or next(table.iterdescendants(*_PAGE_PARTS), None) is not None:
        return True
    return all(len(row) <= 1 for row in table.iter("tr"))


def _rows(table: Element) -> Iterator[list[str]]:
    """Yields rows of as many cells as are spanned; what spans rows is said in each, for a row is found by itself."""
    below: dict[int, tuple[int, str]] = {}
    for row in table.iter("tr"):
        if not _visible(row):
            continue
        cells: list[str] = []

        def carry(cells: list[str] = cells) -> None:
            while (held := below.get(len(cells))) and held[0]:
                below[len(cells)] = (held[0] - 1, held[1])
                cells.append(held[1])

        for cell in row.iterchildren("td", "th"):
            carry()
            text = one_line(_inline(cell)) if _visible(cell) else ""
            rows = _span(cell, "rowspan")
            for column in range(_span(cell, "colspan")):
                shown = "" if column else text
                below[len(cells)] = (rows - 1, shown[:_MAX_REPEATED])
                cells.append(shown)
        carry()
        yield cells


def _span(cell: Element, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), _MAX_SPAN) if value.isascii() and value.isdigit() and len(value) < 9 else 1


def _list(tag: Element, depth: int) -> list[str]:
    lines = []
    items = [child for child in tag if _visible(child)]
    for number, item in enumerate(items, start=1):
        if item.tag in _LISTS:
            lines += _list(item, depth + 1)
            continue
        nested: list[Element] = []
        own = one_line(_inline(item, nested))
        mark = f"{number}." if tag.tag == "ol" else "-"
        if own or nested:
            lines.append(f"{'  ' * depth}{mark} {own}")
        for inner in nested:
            lines += _list(inner, depth + 1)
    return lines
