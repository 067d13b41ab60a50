"""The canonical text of a document, and how parsers build it."""

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.retriever.domain import Block, Kind, Unreadable
from services.retriever.ingest.reasons import refusal

MAX_CHARACTERS = 30_000_000
MAX_ROWS = 200_000
MAX_COLUMNS = 1_000
_MAX_RULED = 50  # columns of a table that is given a line of dashes: beyond, it would fill chunks of its own
# NUL and lone surrogates can neither be stored nor sent.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BLANKS = re.compile(r"\s+")
# Codecs by which text may say that it is written. Python knows more, among them some that unpack or take very long.
_CHARSETS = re.compile(
    r"utf-?8(-sig)?|(us-)?ascii|utf-?16([lb]e)?|(iso[-_]?)?8859[-_]\d{1,2}|latin[-_]?\d{1,2}|(windows|cp)[-_]?125\d|"
    r"koi8[-_][rut]|mac[-_]?roman|macintosh|gb2312|gbk|gb18030|big5(hkscs)?|(windows|cp)[-_]?(874|9(32|36|49|50))|"
    r"euc[-_](jp|kr)|s(hift)?[-_]?jis|iso[-_]?2022[-_](jp|kr)|tis-620"
)


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
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise refusal("ENCODING", f"the text is not valid {name} (at byte {error.start})") from None


def decode_as(data: bytes, charset: str) -> str:
    """Returns clean text as decode does, else from the charset that it is said to be in, else from windows-1252.

    That is what readers of web pages and e-mail do; a charset that is unknown counts as none.
    """
    try:
        return decode(data)
    except Unreadable:
        charset = charset.strip().lower()
        if not _CHARSETS.fullmatch(charset) or charset.startswith(("utf-8", "utf8")):
            charset = "windows-1252"
    try:
        return clean(data.decode("windows-1252" if "ascii" in charset or charset == "iso-8859-1" else charset))
    except (UnicodeDecodeError, LookupError):
        raise refusal("ENCODING", f"the text is neither valid UTF-8 nor {charset}") from None


def one_line(text: str) -> str:
    """Returns the text with every run of white space as one space."""
    return _BLANKS.sub(" ", text).strip()


class Builder:
    """Joins blocks into one text, a blank line apart, and keeps where each is; refuses to grow beyond the limit."""

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self._max_characters = max_characters

    def add(self, kind: Kind, text: str, *, level: int = 0, page: int | None = None) -> None:
        """Appends a block; a blank one is left out."""
        text = clean(text).strip()
        if not text:
            return
        self._expect(len(text))
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        end = self._length + len(text)
        title = one_line(text) if kind is Kind.HEADING else ""
        self._blocks.append(Block(kind=kind, start=self._length, end=end, level=level, title=title, page=page))
        self._parts.append(text)
        self._length = end

    def table(self, rows: Iterable[Sequence[str]], *, page: int | None = None) -> None:
        """Appends a table as pipe rows, the first of which heads it. Blank rows, and blanks at rows' ends, go."""
        lines: list[str] = []
        length = 0
        for row in rows:
            cells = [one_line(cell).replace("|", "\\|") for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if not cells:
                continue
            if len(cells) > MAX_COLUMNS:
                raise refusal("TOO_MANY_COLUMNS", f"a table has more than {MAX_COLUMNS} columns")
            if len(lines) > MAX_ROWS:
                raise refusal("TOO_MANY_ROWS", f"a table has more than {MAX_ROWS} rows")
            lines.append(f"| {' | '.join(cells)} |")
            if len(lines) == 1 and len(cells) <= _MAX_RULED:
                lines.append("|" + " --- |" * len(cells))
            length += len(lines[-1])
            self._expect(length)
        self.add(Kind.TABLE, "\n".join(lines), page=page)

    def build(self) -> Extracted:
        """Returns the text and its blocks."""
        return Extracted(text="".join(self._parts), blocks=tuple(self._blocks))

    def _expect(self, more: int) -> None:
        if self._length + more > self._max_characters:
            raise refusal("TOO_LARGE", f"the document holds more than {self._max_characters} characters of text")
