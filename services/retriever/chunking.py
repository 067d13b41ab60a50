"""Cuts a document along its structure: sections, paragraphs, tables, and sentences where a paragraph is too long.

Every chunk is an exact range of the extracted text. Chunks do not overlap, none is longer than the limit, and together
they hold every character that is not blank. A chunk that goes on with a table knows the row that heads it.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from services.retriever.domain import Block, Chunk, Kind, NewChunk

MAX_HEADING = 300
_MAX_PREFIX = 600
_MAX_TABLE_HEAD = 300
# A sentence ends at a full stop, question or exclamation mark (and closing quotes) before white space, or after one of
# the full-width marks.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]\s*|\n\s*\n")
_LINE_END = re.compile(r"\n")
_WORD_END = re.compile(r"\s+")

Span = tuple[int, int]


def cut(text: str, blocks: Sequence[Block], *, limit: int) -> list[Chunk]:
    """Returns the chunks of a text; blocks are in order and apart, limit is in characters and positive.

    A section begins a new chunk. Within a section whole blocks are packed until the limit.
    """
    cutter = _Cutter(text, limit)
    for block in _complete(text, blocks):
        cutter.add(block)
    cutter.flush()
    return cutter.chunks


def contextual_prefix(title: str, headings: Sequence[str]) -> str:
    """Returns what a chunk's text is indexed and embedded under: the title and the path of headings."""
    path = [part for part in (title, *headings) if part]
    unique = [part for index, part in enumerate(path) if index == 0 or part != path[index - 1]]
    return " > ".join(unique)[:_MAX_PREFIX] + "\n" if unique else ""


def prefix_of(text: str, chunk: Chunk, *, title: str) -> str:
    """Returns what goes before a chunk where it is indexed: title, path of headings, the head of a table cut apart."""
    prefix = contextual_prefix(title, chunk.headings)
    if chunk.table_head is None:
        return prefix
    start, end = chunk.table_head
    return f"{prefix}{text[start : min(end, start + _MAX_TABLE_HEAD)]}\n"


def drafts(text: str, chunks: Sequence[Chunk], *, title: str) -> list[NewChunk]:
    """Returns the chunks as they are indexed, without their vectors."""
    made = []
    for chunk in chunks:
        prefix = prefix_of(text, chunk, title=title)
        content = prefix + text[chunk.start : chunk.end]
        made.append(NewChunk(chunk=chunk, content=content, prefix_length=len(prefix), vector=()))
    return made


class _Cutter:
    def __init__(self, text: str, limit: int) -> None:
        self.chunks: list[Chunk] = []
        self._text = text
        self._limit = limit
        self._path: list[tuple[int, str]] = []
        self._headings: tuple[str, ...] = ()  # the path to what the open chunk holds last
        self._span: Span | None = None
        self._bare = True  # the open chunk holds nothing but headings
        self._page: int | None = None
        self._table_head: Span | None = None
        self._room = limit

    def add(self, block: Block) -> None:
        if block.kind is Kind.HEADING:
            if not self._bare:
                self.flush()
            while self._path and self._path[-1][0] >= block.level:
                self._path.pop()
            self._path.append((block.level, block.title[:MAX_HEADING]))
        if not self._fits(block.end) and self._span and self._bare and block.kind not in (Kind.TABLE, Kind.HEADING):
            # A heading should not stand alone: the beginning of what follows goes along with it.
            room = self._limit - (block.start - self._span[0])
            for index, span in enumerate(split(self._text, block, limit=max(room, self._limit // 4, 1))):
                if index == 0 or self._fits(span[1]):
                    self._put(span, block)
                else:
                    self._rest((span[0], block.end), block)
                    break
            return
        self._rest((block.start, block.end), block)

    def _rest(self, span: Span, block: Block) -> None:
        part = Block(kind=block.kind, start=span[0], end=span[1], page=block.page)
        limit = self._limit
        if block.kind is Kind.TABLE and span[1] - span[0] > limit and (head := _table_head(self._text, block)):
            limit = self._beside(head)
        for piece in split(self._text, part, limit=limit):
            self._put(piece, block)

    def _put(self, span: Span, block: Block) -> None:
        if not self._fits(span[1]):
            self.flush()
        if self._span is None:
            self._page = block.page
            head = _table_head(self._text, block) if block.kind is Kind.TABLE else None
            self._table_head = head if head and head[1] < span[0] else None
            self._room = self._beside(self._table_head) if self._table_head else self._limit
        self._span = (self._span[0] if self._span else span[0], span[1])
        self._bare = self._bare and block.kind is Kind.HEADING
        self._headings = tuple(title for _, title in self._path)

    def _fits(self, end: int) -> bool:
        return self._span is None or end - self._span[0] <= self._room

    def _beside(self, head: Span) -> int:
        """Returns what is left for a chunk when the head of its table goes along."""
        return max(self._limit - min(head[1] - head[0], _MAX_TABLE_HEAD), self._limit // 2, 1)

    def flush(self) -> None:
        if self._span is not None:
            start, end = self._span
            self.chunks.append(
                Chunk(start=start, end=end, headings=self._headings, page=self._page, table_head=self._table_head)
            )
        self._span, self._bare, self._page, self._table_head = None, True, None, None


def split(text: str, block: Block, *, limit: int) -> list[Span]:
    """Returns the block whole if it fits, else its rows or sentences packed, else words, else bare characters."""
    whole = _trim(text, (block.start, block.end))
    if whole is None:
        return []
    ends = [_LINE_END, _WORD_END] if block.kind is Kind.TABLE else [_SENTENCE_END, _LINE_END, _WORD_END]
    return list(_pack(text, whole, ends=ends, limit=limit))


def _table_head(text: str, table: Block) -> Span | None:
    """Returns the first row of a table that has more than one."""
    end = text.find("\n", table.start, table.end)
    return (table.start, end) if end > table.start else None


def _pack(text: str, span: Span, *, ends: Sequence[re.Pattern[str]], limit: int) -> Iterator[Span]:
    if span[1] - span[0] <= limit:
        yield span
        return
    if not ends:
        for start in range(span[0], span[1], limit):
            if piece := _trim(text, (start, min(start + limit, span[1]))):
                yield piece
        return
    edges = [span[0], *(match.end() for match in ends[0].finditer(text, *span)), span[1]]
    packed: Span | None = None
    for raw in pairwise(edges):
        unit = _trim(text, raw)
        if unit is None:
            continue
        if packed is not None and unit[1] - packed[0] <= limit:
            packed = (packed[0], unit[1])
            continue
        if packed is not None:
            yield packed
        if unit[1] - unit[0] <= limit:
            packed = unit
        else:
            yield from _pack(text, unit, ends=ends[1:], limit=limit)
            packed = None
    if packed is not None:
        yield packed


def _trim(text: str, span: Span) -> Span | None:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _complete(text: str, blocks: Sequence[Block]) -> Iterator[Block]:
    """Yields the blocks, and as paragraphs what lies between them and is not blank."""
    at, page = 0, None
    for block in blocks:
        if gap := _trim(text, (at, block.start)):
            yield Block(kind=Kind.PARAGRAPH, start=gap[0], end=gap[1], page=page)
        if span := _trim(text, (block.start, block.end)):
            yield Block(
                kind=block.kind, start=span[0], end=span[1], level=block.level, title=block.title, page=block.page
            )
        at, page = block.end, block.page
    if gap := _trim(text, (at, len(text))):
        yield Block(kind=Kind.PARAGRAPH, start=gap[0], end=gap[1], page=page)
