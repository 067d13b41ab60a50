"""The canonical text of a document, and how parsers build it."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.retriever.domain import Block, Kind, Unreadable

# NUL and lone surrogates can neither be stored nor sent.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Extracted:
    """Is what a parser read: the text, and blocks in order and apart."""

    text: str
    blocks: tuple[Block, ...]


def clean(text: str) -> str:
    """Returns the text with line feeds as its only line ends and without what cannot be stored."""
    return _UNSTORABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def decode(data: bytes) -> str:
    """Returns clean text from UTF-8, or from UTF-16 with a byte order mark; raises Unreadable for anything else."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return clean(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise Unreadable("ENCODING", f"the text is not valid UTF-8 (at byte {error.start})") from None


def one_line(text: str) -> str:
    """Returns the text with every run of white space as one space."""
    return _BLANKS.sub(" ", text).strip()


class Builder:
    """Joins blocks into one text, a blank line apart, and keeps where each is."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    def add(self, kind: Kind, text: str, *, level: int = 0, page: int | None = None) -> None:
        """Appends a block; a blank one is left out."""
        text = clean(text).strip()
        if not text:
            return
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        end = self._length + len(text)
        title = one_line(text) if kind is Kind.HEADING else ""
        self._blocks.append(Block(kind=kind, start=self._length, end=end, level=level, title=title, page=page))
        self._parts.append(text)
        self._length = end

    def table(self, rows: Sequence[Sequence[str]], *, page: int | None = None) -> None:
        """Appends a table as pipe rows, the first of which heads it."""
        cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
        cells = [row for row in cells if any(row)]
        if not cells:
            return
        width = max(map(len, cells))
        lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in cells]
        lines.insert(1, "|" + " --- |" * width)
        self.add(Kind.TABLE, "\n".join(lines), page=page)

    def build(self) -> Extracted:
        """Returns the text and its blocks."""
        return Extracted(text="".join(self._parts), blocks=tuple(self._blocks))
