"""The outline of a text: its blocks in a compact form that is kept beside it, so that it can be cut anew without bytes.

An outline is JSON, a row a block: letter of the kind, characters since the end of the block before, length, page (0 for
none), and of a heading its level and title.
"""

import json
from collections.abc import Sequence

from services.retriever.domain.documents import Block, Kind

_LETTERS = {Kind.HEADING: "h", Kind.PARAGRAPH: "p", Kind.TABLE: "t", Kind.LIST: "l"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_MAX_PAGE = 2**31


def dump_outline(blocks: Sequence[Block]) -> str:
    """Returns the outline of blocks that are in order and apart."""
    rows, at = [], 0
    for block in blocks:
        row: list[str | int] = [_LETTERS[block.kind], block.start - at, block.end - block.start]
        if block.kind is Kind.HEADING:
            row += [block.page or 0, block.level, block.title]
        elif block.page:
            row.append(block.page)
        rows.append(row)
        at = block.end
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def load_outline(outline: str, *, length: int) -> tuple[Block, ...]:
    """Returns the blocks of a text of that length; raises ValueError for an outline that is none, or not of that text.

    An empty outline is one without blocks.
    """
    if not outline:
        return ()
    try:
        rows, blocks, at = json.loads(outline), [], 0
        for letter, gap, size, *more in rows:
            block = _block(_KINDS[letter], at + gap, at + gap + size, *more)
            if gap < 0 or size < 0 or block.end > length:
                raise ValueError("a block lies outside of the text")
            blocks.append(block)
            at = block.end
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the outline has not the form of one") from error
    return tuple(blocks)


def _block(kind: Kind, start: int, end: int, page: int = 0, level: int = 0, title: str = "") -> Block:
    if not all(isinstance(number, int) for number in (start, end, page, level)):
        raise TypeError("places are whole numbers")
    if not 0 <= page < _MAX_PAGE or not 0 <= level <= 9:
        raise ValueError("page or level is out of range")
    title.encode()  # a lone surrogate can be neither stored nor sent
    return Block(kind=kind, start=start, end=end, level=level, title=title, page=page or None)
