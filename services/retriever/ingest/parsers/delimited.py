"""Reads tables of delimited text (CSV, TSV): one table, headed by its first row."""

import csv
from collections.abc import Iterator
from itertools import islice

from services.retriever.ingest.parsers.canonical import Builder, Extracted, decode
from services.retriever.ingest.reasons import refusal

MAX_CELL = 32_767  # characters; what a cell of Excel holds
_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20
_SAMPLE_CHARACTERS = 65_536


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the table; the delimiter is the one that cuts the first rows most evenly."""
    text = decode(data)
    lines = text.split("\n")
    builder = Builder(max_characters)
    if lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # Excel's way to name the delimiter
        delimiter = lines.pop(0)[4]
    else:
        delimiter = _delimiter(text[:_SAMPLE_CHARACTERS].split("\n"))
    builder.table(_rows(lines, delimiter))
    return builder.build()


def _rows(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL)
    try:
        # Line ends go along, for a cell in quotes may hold some.
        yield from csv.reader((line + "\n" for line in lines), delimiter=delimiter)
    except csv.Error as error:
        if "field limit" in str(error):
            raise refusal("CELL_TOO_LARGE", f"a cell has more than {MAX_CELL} characters") from None
        raise refusal("MALFORMED", "the table cannot be read") from None


def _delimiter(sample: list[str]) -> str:
    """Returns the delimiter by which most rows have as many cells as the first, and that is the most cells."""

    def evenness(delimiter: str) -> tuple[float, int]:
        csv.field_size_limit(_SAMPLE_CHARACTERS + 1)
        rows = [row for row in islice(csv.reader(sample, delimiter=delimiter), _SAMPLE_ROWS) if row]
        widths = [len(row) for row in rows]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    return max(_DELIMITERS, key=evenness)
