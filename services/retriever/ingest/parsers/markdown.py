"""Reads Markdown (CommonMark and tables). The text stays the source text: the parser only finds the structure."""

from itertools import accumulate

from markdown_it import MarkdownIt

from services.retriever.chunking import MAX_HEADING
from services.retriever.domain import Block, Kind
from services.retriever.ingest.parsers.canonical import Extracted, decode, one_line

_KINDS = {
    "heading_open": Kind.HEADING,
    "table_open": Kind.TABLE,
    "bullet_list_open": Kind.LIST,
    "ordered_list_open": Kind.LIST,
}


def extract(data: bytes, _: int) -> Extracted:
    """Returns the source text with the top-level blocks."""
    text = decode(data)
    body = _after_front_matter(text)
    starts = [body, *accumulate((len(line) + 1 for line in text[body:].split("\n")), initial=body)][1:]
    # Spans are not read, save those of headings: only the structure is wanted, and they could take very long.
    parser = MarkdownIt("commonmark").enable("table").disable("inline")
    tokens = parser.parse(text[body:])
    blocks = []
    for index, token in enumerate(tokens):
        if token.level or token.nesting < 0 or token.map is None:
            continue
        first, last = token.map
        start, end = starts[first], min(starts[min(last, len(starts) - 1)], len(text))
        kind = _KINDS.get(token.type, Kind.PARAGRAPH)
        if kind is Kind.HEADING:
            title = _plain(tokens[index + 1].content[:MAX_HEADING])
            blocks.append(Block(kind=kind, start=start, end=end, level=int(token.tag[1:]), title=title))
        else:
            blocks.append(Block(kind=kind, start=start, end=end))
    return Extracted(text=text, blocks=tuple(blocks))


def _plain(heading: str) -> str:
    """Returns a heading's text without its marks."""
    tokens = MarkdownIt("commonmark").parseInline(heading)[0].children or []
    return one_line("".join(token.content or " " * (token.type == "softbreak") for token in tokens))


def _after_front_matter(text: str) -> int:
    """Returns where the Markdown begins after a leading block of metadata between lines of three dashes."""
    if not text.startswith("---\n"):
        return 0
    end = text.find("\n---\n", 3)
    return end + 5 if end >= 0 else 0
