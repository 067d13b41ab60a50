"""Reads HTML: headings, paragraphs, lists and tables of what a reader would see."""

import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement, PreformattedString, Tag

from services.retriever.domain import Kind
from services.retriever.ingest.parsers.canonical import Builder, Extracted, one_line

_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "select", "nav"})
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "main", "p",
        "pre", "section", "summary", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "menu", "table",
    }
)  # fmt: skip
_HEADING = re.compile(r"h([1-6])")
_LISTS = frozenset({"ul", "ol", "menu"})


def extract(data: bytes) -> Extracted:
    """Returns the visible text; scripts, styles, navigation and hidden elements are left out."""
    soup = BeautifulSoup(data, "lxml")
    walk = _Walk()
    walk.children(soup)
    walk.flush()
    return walk.builder.build()


def _visible(tag: Tag) -> bool:
    return tag.name not in _SKIPPED and not tag.has_attr("hidden") and tag.get("aria-hidden") != "true"


def _inline(node: PageElement) -> str:
    """Returns the text of an element, with line breaks where it has them, its blanks not yet collapsed."""
    if isinstance(node, NavigableString):
        return "" if isinstance(node, PreformattedString) else str(node)
    if not isinstance(node, Tag) or not _visible(node):
        return ""
    if node.name == "br":
        return "\n"
    text = "".join(map(_inline, node.children))
    return f" {text} " if node.name in _BLOCKS or node.name in ("li", "td", "th", "tr") else text


class _Walk:
    def __init__(self) -> None:
        self.builder = Builder()
        self._run: list[str] = []

    def children(self, tag: Tag) -> None:
        for child in tag.children:
            if isinstance(child, Tag):
                if _visible(child):
                    self._tag(child)
            else:
                self._run.append(_inline(child))

    def flush(self) -> None:
        """Ends the paragraph that stray text has been gathering."""
        text = "".join(self._run)
        self._run = []
        self.builder.add(Kind.PARAGRAPH, one_line(text))

    def _tag(self, tag: Tag) -> None:
        if tag.name not in _BLOCKS:
            # An inline element may wrap blocks (a link around a card); its own text joins the run.
            if tag.find(_BLOCKS) is None:
                self._run.append(_inline(tag))
            else:
                self.children(tag)
            return
        self.flush()
        if heading := _HEADING.fullmatch(tag.name):
            self.builder.add(Kind.HEADING, one_line(_inline(tag)), level=int(heading[1]))
        elif tag.name == "table":
            self._table(tag)
        elif tag.name in _LISTS:
            self.builder.add(Kind.LIST, "\n".join(_list(tag, 0)))
        elif tag.name == "pre":
            self.builder.add(Kind.PARAGRAPH, tag.get_text())
        else:
            self.children(tag)
            self.flush()

    def _table(self, table: Tag) -> None:
        if caption := table.find("caption"):
            self.builder.add(Kind.PARAGRAPH, one_line(_inline(caption)))
        rows = []
        for row in table.find_all("tr"):
            if row.find_parent("table") is not table or not _visible(row):
                continue
            cells: list[str] = []
            for cell in row.find_all(["td", "th"], recursive=False):
                cells += [_inline(cell), *[""] * (_colspan(cell) - 1)]
            rows.append(cells)
        self.builder.table(rows)


def _colspan(cell: Tag) -> int:
    value = str(cell.get("colspan", "1"))
    return min(max(int(value), 1), 50) if value.isascii() and value.isdigit() else 1


def _list(tag: Tag, depth: int) -> list[str]:
    lines = []
    items = [child for child in tag.children if isinstance(child, Tag) and _visible(child)]
    for number, item in enumerate(items, start=1):
        nested = [child for child in item.find_all(_LISTS) if child.find_parent(_LISTS) is tag]
        own = "".join(_inline(child) for child in item.children if child not in nested)
        mark = f"{number}." if tag.name == "ol" else "-"
        lines.append(f"{'  ' * depth}{mark} {one_line(own)}")
        for inner in nested:
            lines += _list(inner, depth + 1)
    return lines
