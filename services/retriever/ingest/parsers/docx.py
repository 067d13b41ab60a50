"""Reads Word documents (.docx): headings by style or outline level, paragraphs, lists and tables in their order.

Text boxes follow the paragraph that they hang on, notes stand at the end. Deleted and hidden text, page headers and
pictures are left out.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import docx
from docx.oxml import parse_xml

from services.retriever.domain import Kind
from services.retriever.ingest.parsers import archive
from services.retriever.ingest.parsers.canonical import Builder, Extracted, one_line

_HEADING = re.compile(r"heading (\d)")
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_LEFT_OUT = frozenset({_FALLBACK, *(_W + name for name in ("del", "moveFrom", "pPr", "tblPr", "tcPr", "sdtPr"))})
_CHARACTERS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_BOX = _W + "txbxContent"
_MAX_SPAN = 50
_MAX_REPEATED = 200
_MAX_BASES = 20

Element = Any


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the text of the body and the notes."""
    archive.check(data)
    document = docx.Document(BytesIO(data))
    builder = Builder(max_characters)
    walk = _Walk(builder, _Styles(document))
    walk.blocks(document.element.body)
    walk.end_list()
    for kind in ("footnotes", "endnotes"):
        builder.add(Kind.LIST, "\n".join(_notes(document, kind)))
    return builder.build()


class _Styles:
    def __init__(self, document: Any) -> None:
        self._by_id = {style.style_id: style for style in document.styles}

    def of(self, paragraph: Element) -> tuple[int, str]:
        """Returns the level of a heading, 0 for other paragraphs, and the mark of a list's item, or nothing."""
        own = paragraph.find(_W + "pPr")
        style = self._by_id.get(_value(own, "pStyle"))
        names, elements = list[str](), [own]
        while style is not None and len(names) < _MAX_BASES:
            names.append((style.name or "").lower())
            elements.append(style.element.find(_W + "pPr"))
            style = self._by_id.get(_value(style.element, "basedOn"))
        for name, element in zip(["", *names], elements, strict=True):
            level = _value(element, "outlineLvl")
            if heading := _HEADING.fullmatch(name):
                return int(heading[1]), ""
            if name == "title" or level.isdecimal():
                # Level 9 of an outline is the body's.
                return (1 if name == "title" else (int(level) + 1) % 10 if len(level) == 1 else 0), ""
        if names and names[0].startswith("list"):
            return 0, "1." if "number" in names[0] else "-"
        return 0, "-" if own is not None and own.find(_W + "numPr") is not None else ""


class _Walk:
    def __init__(self, builder: Builder, styles: _Styles) -> None:
        self._builder = builder
        self._styles = styles
        self._items: list[str] = []

    def blocks(self, parent: Element) -> None:
        """Reads the paragraphs and tables in an element, those in content controls and insertions too."""
        for element in parent.iterchildren("{*}*"):
            if element.tag in _LEFT_OUT:
                continue
            if element.tag == _W + "p":
                self._paragraph(element)
            elif element.tag == _W + "tbl":
                self._table(element)
            else:
                self.blocks(element)

    def end_list(self) -> None:
        """Ends the list whose items have been gathering."""
        self._builder.add(Kind.LIST, "\n".join(self._items))
        self._items.clear()

    def _paragraph(self, element: Element) -> None:
        boxes: list[Element] = []
        text = "".join(_pieces(element, boxes)).strip()
        level, mark = self._styles.of(element)
        if mark and text:
            self._items.append(f"{mark} {text}")
        elif text:
            self.end_list()
            self._builder.add(Kind.HEADING if level else Kind.PARAGRAPH, text, level=level)
        for box in boxes:
            self.end_list()
            self.blocks(box)

    def _table(self, table: Element) -> None:
        self.end_list()
        rows = [row for row in table.iter(_W + "tr") if next(row.iterancestors(_W + "tbl")) is table]
        cells = [cell for row in rows[:1] for cell in _cells(row)]
        if len(rows) == 1 and len(cells) == 1:  # a frame around paragraphs
            self.blocks(cells[0])
            return
        self._builder.table(_rows(rows))


def _rows(rows: list[Element]) -> Iterator[list[str]]:
    """Yields rows of as many cells as are spanned; what spans rows is said in each, for a row is found by itself."""
    above: list[str] = []
    for row in rows:
        cells: list[str] = []
        for cell in _cells(row):
            properties = cell.find(_W + "tcPr")
            merge = None if properties is None else properties.find(_W + "vMerge")
            if merge is not None and merge.get(_W + "val", "continue") == "continue":
                text = above[len(cells)] if len(cells) < len(above) else ""
                text = text if len(text) <= _MAX_REPEATED else ""
            else:
                text = one_line(" ".join("".join(_pieces(part, [])) for part in cell.iter(_W + "p")))
            span = _value(properties, "gridSpan")
            cells += [text, *[""] * (min(int(span), _MAX_SPAN) - 1 if span.isdecimal() and len(span) < 9 else 0)]
        yield cells
        above = cells


def _cells(row: Element) -> list[Element]:
    return [cell for cell in row.iter(_W + "tc") if next(cell.iterancestors(_W + "tr")) is row]


def _pieces(element: Element, boxes: list[Element]) -> Iterator[str]:
    """Yields the text of a paragraph or what is in it; text boxes are put aside."""
    for part in element.iterchildren("{*}*"):
        if part.tag == _BOX:
            boxes.append(part)
        elif part.tag in (_W + "t", _MATH_TEXT):
            yield part.text or ""
        elif part.tag in _CHARACTERS:
            yield _CHARACTERS[part.tag]
        elif part.tag in (_W + "footnoteReference", _W + "endnoteReference"):
            yield f"[{part.get(_W + 'id', '')[:9]}]"
        elif part.tag not in _LEFT_OUT and not _hidden(part):
            yield from _pieces(part, boxes)


def _hidden(run: Element) -> bool:
    properties = run.find(_W + "rPr") if run.tag == _W + "r" else None
    vanish = None if properties is None else properties.find(_W + "vanish")
    return vanish is not None and vanish.get(_W + "val", "true") not in ("0", "false", "off")


def _notes(document: Any, kind: str) -> Iterator[str]:
    for relation in document.part.rels.values():
        if relation.is_external or not relation.reltype.endswith(f"/{kind}"):
            continue
        for note in parse_xml(relation.target_part.blob).iterchildren(_W + kind[:-1]):
            text = one_line(" ".join("".join(_pieces(part, [])) for part in note.iter(_W + "p")))
            if text:
                yield f"[{note.get(_W + 'id', '')[:9]}] {text}"


def _value(parent: Element, name: str) -> str:
    """Returns the value of a property, or nothing."""
    element = None if parent is None else parent.find(_W + name)
    return "" if element is None else str(element.get(_W + "val", ""))
