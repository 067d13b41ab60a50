"""Reads Excel workbooks (.xlsx): visible sheets under their names, tables apart where a blank row is.

Cells have the values that were stored when the workbook was last computed. Nothing is computed here, no link to another
file is followed, and macros, charts and pictures are not looked at.
"""

import warnings
from collections.abc import Iterator
from datetime import datetime, time
from io import BytesIO
from typing import Any

import openpyxl

from services.retriever.domain import Kind
from services.retriever.ingest.parsers import archive
from services.retriever.ingest.parsers.canonical import MAX_COLUMNS, MAX_ROWS, Builder, Extracted
from services.retriever.ingest.parsers.delimited import MAX_CELL
from services.retriever.ingest.reasons import refusal

_MAX_SHEETS = 500
_LAST_ROW = 1_048_576  # of a sheet of Excel


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the text of the visible sheets."""
    archive.check(data)
    builder = Builder(max_characters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about features that are left out when a workbook is written again
        workbook = openpyxl.load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
        try:
            if len(workbook.worksheets) > _MAX_SHEETS:
                raise refusal("TOO_MANY_PARTS", f"the workbook has more than {_MAX_SHEETS} sheets")
            for sheet in workbook.worksheets:
                if sheet.sheet_state == "visible":
                    _sheet(builder, sheet)
        finally:
            workbook.close()
    return builder.build()


def _sheet(builder: Builder, sheet: Any) -> None:
    sheet.reset_dimensions()  # a file may claim any size
    named, table = False, list[list[str]]()

    def end_table() -> None:
        nonlocal named
        if table and not named:
            builder.add(Kind.HEADING, sheet.title, level=1)
            named = True
        # Rows of one cell above a table of several columns are its caption.
        captions = next((index for index, row in enumerate(table) if len(row) > 1), int(len(table) == 1))
        for row in table[:captions]:
            builder.add(Kind.PARAGRAPH, row[0])
        del table[:captions]
        builder.table(table)
        table.clear()

    for row in _rows(sheet):
        if row:
            table.append(row)
            if len(table) > MAX_ROWS:
                raise refusal("TOO_MANY_ROWS", f"a sheet has more than {MAX_ROWS} rows")
        else:
            end_table()
    end_table()


def _rows(sheet: Any) -> Iterator[list[str]]:
    """Yields the texts of each row without the blanks at its end; nothing for a blank row."""
    for number, row in enumerate(sheet.iter_rows(), start=1):
        if number > _LAST_ROW:
            raise refusal("MALFORMED", f"a sheet names rows beyond the {_LAST_ROW} that there can be")
        if len(row) > MAX_COLUMNS and any(cell.value is not None for cell in row[MAX_COLUMNS:]):
            raise refusal("TOO_MANY_COLUMNS", f"a sheet has more than {MAX_COLUMNS} columns")
        cells = [_text(cell) for cell in row[:MAX_COLUMNS]]
        while cells and not cells[-1]:
            cells.pop()
        yield cells


def _text(cell: Any) -> str:
    value = cell.value
    match value:
        case None:
            return ""
        case str():
            if len(value) > MAX_CELL:
                raise refusal("CELL_TOO_LARGE", f"a cell has more than {MAX_CELL} characters")
            return value.strip()
        case bool():
            return str(value).upper()
        case int() | float():
            # As Excel shows a number: 15 digits, and a share as per cent.
            share = "%" in str(cell.number_format)
            return f"{value * 100 if share else value:.15g}{'%' if share else ''}"
        case datetime():
            return str(value.date()) if value.time() == time() else value.isoformat(sep=" ", timespec="seconds")
    return str(value)
