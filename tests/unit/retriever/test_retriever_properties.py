"""What holds for every document: exact offsets, all content in order, right headings; and no bytes break a parser."""

import csv
import io
import json
import random
from collections.abc import Iterator

import docx
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.retriever.chunking import cut
from services.retriever.domain import (
    CSV,
    DOCX,
    EMAIL,
    HTML,
    MARKDOWN,
    MEDIA_TYPES,
    PDF,
    PLAIN,
    XLSX,
    ParsedDocument,
    Unreadable,
    load_outline,
)
from services.retriever.ingest.reasons import ADVICE
from services.retriever.ingest.worker import answer_to
from services.retriever.ingest.workers import checked
from tests.fakes import hostile

LIMIT, MOST = 80, 1_000_000
slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(data: bytes, media_type: str) -> ParsedDocument:
    """Goes the whole way from bytes to what the service takes from a worker; raises Unreadable."""
    request = {"media_type": media_type, "limit": LIMIT, "max_characters": MOST}
    answer = answer_to(json.dumps(request).encode() + b"\n" + data)
    return checked(json.dumps(answer).encode(), max_characters=MOST)


def expect_sound(parsed: ParsedDocument) -> None:
    at, held = 0, []
    for chunk in parsed.chunks:
        piece = parsed.text[chunk.start : chunk.end]
        assert chunk.start >= at
        assert 0 < len(piece) <= LIMIT
        assert piece == piece.strip()
        assert not parsed.text[at : chunk.start].strip()
        held.append(piece)
        at = chunk.end
    assert not parsed.text[at:].strip()
    assert list(parsed.chunks) == cut(parsed.text, parsed.blocks, limit=LIMIT), "it can be cut anew from its outline"


words = st.text(alphabet="abc é|<&#*\"',;\t日🙂\n", max_size=40)


@given(st.lists(st.lists(words, min_size=2, max_size=4), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_every_cell_of_a_delimited_table_is_in_a_chunk(rows: list[list[str]], delimiter: str) -> None:
    file = io.StringIO()
    file.write(f"sep={delimiter}\n")
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    cells = [" ".join(cell.split()).replace("|", "\\|") for row in rows for cell in row]
    if not any(cells):
        return
    parsed = parse(file.getvalue().encode(), CSV)
    expect_sound(parsed)
    expect_in_order(parsed.text, cells)


def expect_in_order(text: str, pieces: list[str]) -> None:
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        assert found >= 0, piece
        at = found + len(piece)


cells = st.none() | st.integers(-(10**9), 10**9) | st.booleans() | st.text(alphabet="abé|日🙂", max_size=20)


@slow
@given(st.lists(st.lists(cells, max_size=4), min_size=1, max_size=6))
def test_every_cell_of_a_workbook_is_in_a_chunk(rows: list[list[object]]) -> None:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(file)
    shown = [
        str(cell).upper() if isinstance(cell, bool) else str(cell)
        for row in rows
        for cell in row
        if cell not in (None, "")
    ]
    if not shown:
        return
    parsed = parse(file.getvalue(), XLSX)
    expect_sound(parsed)
    expect_in_order(parsed.text.replace("\\|", "|"), shown)


@st.composite
def outlines(draw: st.DrawFn) -> list[tuple[int, str]]:
    """Draws headings (with their level) and paragraphs (level 0), each of its own word."""
    levels = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4]), min_size=1, max_size=14))
    return [(level, f"word{index}" * draw(st.integers(1, 9))) for index, level in enumerate(levels)]


def as_markdown(outline: list[tuple[int, str]]) -> bytes:
    return "\n\n".join("#" * level + " " * bool(level) + text for level, text in outline).encode()


def as_html(outline: list[tuple[int, str]]) -> bytes:
    return "".join(
        f"<h{level}>{text}</h{level}>" if level else f"<div>{text}</div>" for level, text in outline
    ).encode()


def as_word(outline: list[tuple[int, str]]) -> bytes:
    document, file = docx.Document(), io.BytesIO()
    for level, text in outline:
        document.add_paragraph(text, style=f"Heading {level}" if level else None)
    document.save(file)
    return file.getvalue()


@slow
@given(outlines(), st.sampled_from([(as_markdown, MARKDOWN), (as_html, HTML), (as_word, DOCX)]))
def test_every_chunk_knows_the_headings_above_it(outline: list[tuple[int, str]], form: tuple) -> None:
    write, media_type = form
    parsed = parse(write(outline), media_type)
    expect_sound(parsed)
    path: list[tuple[int, str]] = []
    expected = {}
    for level, text in outline:
        if level:
            path = [*(above for above in path if above[0] < level), (level, text)]
        expected[text] = tuple(title for _, title in path)
    for chunk in parsed.chunks:
        held = [text for text in expected if text in parsed.text[chunk.start : chunk.end]]
        for text in held[-1:]:
            assert chunk.headings == expected[text]


@given(st.binary(max_size=300), st.sampled_from(sorted(set(MEDIA_TYPES.values()))))
def test_any_bytes_are_read_or_refused_with_a_known_reason(data: bytes, media_type: str) -> None:
    expect_read_or_refused(data, media_type)


@given(st.text(alphabet="ab#|-* \n>`1.=&<é/dpt\"';,:", max_size=300), st.sampled_from([MARKDOWN, PLAIN, HTML, CSV]))
def test_any_text_is_cut_exactly(source: str, media_type: str) -> None:
    expect_read_or_refused(source.encode(), media_type)


def expect_read_or_refused(data: bytes, media_type: str) -> None:
    parsed, reason = None, ""
    try:
        parsed = parse(data, media_type)
    except Unreadable as error:
        reason = error.reason
    if parsed is None:
        assert reason in ADVICE
    else:
        expect_sound(parsed)


PDF_PAGE = hostile.pdf_page(b"BT /F 20 Tf 50 700 Td (Heading) Tj /F 10 Tf 0 -40 Td (Text of it.) Tj ET 50 50 99 9 re S")
SEEDS = {
    MARKDOWN: b"---\na: b\n---\n# One\n\ntext *of* it\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- x\n  - y\n",
    PLAIN: "Erste Zeile.\n\nZweite Zeile\nmit Folge.".encode("utf-16"),
    HTML: b"<meta charset=utf-8><h1>A</h1><table><tr><td rowspan=2>b<td>c<tr><td>d</table>"
          b"<ul><li>e<ol><li>f</ol></ul><p>g",
    CSV: b'plan;fee\n"basic; all";10\nplus;20\n',
    EMAIL: hostile.mail(depth=3, parts=2) + b"\n--b2--\n",
    PDF: PDF_PAGE,
    DOCX: hostile.word_file(),
    XLSX: hostile.workbook_file(),
}  # fmt: skip
INNER = {DOCX: "word/document.xml", XLSX: "xl/worksheets/sheet1.xml"}


def damaged(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yields copies with bytes flipped, lost, doubled, or replaced by what is special to many formats."""
    special = [
        b"\0",
        b"\xff\xfe",
        b"<",
        b">",
        b'"',
        b"&#x0;",
        b"-1",
        b"9" * 12,
        b"<<",
        b"obj",
        b"/Length",
        b"\n\n",
        b"PK",
    ]
    for _ in range(30):
        copy = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            at, size = chance.randrange(len(copy)), chance.randint(1, 24)
            match chance.randrange(4):
                case 0:
                    copy[at] ^= 1 << chance.randrange(8)
                case 1 if len(copy) > 2 * size:
                    del copy[at : at + size]
                case 2:
                    copy[at:at] = copy[at : at + size] * chance.randint(1, 40)
                case _:
                    copy[at:at] = chance.choice(special)
        yield bytes(copy)


@pytest.mark.parametrize("media_type", SEEDS)
def test_damaged_files_are_read_or_refused(media_type: str) -> None:
    chance = random.Random(7)
    expect_sound(parse(SEEDS[media_type], media_type))
    for data in damaged(SEEDS[media_type], chance):
        expect_read_or_refused(data, media_type)


@pytest.mark.parametrize(("media_type", "member"), INNER.items())
def test_damaged_parts_of_office_files_are_read_or_refused(media_type: str, member: str) -> None:
    chance = random.Random(8)
    content = hostile.member(SEEDS[media_type], member)
    for data in damaged(content, chance):
        expect_read_or_refused(hostile.packed({member: data}, into=SEEDS[media_type]), media_type)


def test_a_worker_that_was_taken_over_is_not_believed() -> None:
    good = {
        "text": "A\n\nb | c",
        "title": "A",
        "chunks": [[0, 1, ["A"], None, None], [3, 8, [], 2, [0, 1]]],
        "outline": "",
    }
    assert checked(json.dumps(good).encode(), max_characters=99).chunks[1].table_head == (0, 1)
    chunks = [
        [], [[0, 9, [], None, None]], [[-1, 2, [], None, None]], [[0, 3, [], None, None], [2, 4, [], None, None]],
        [[3, 8, [], None, [0, 5]]], [[3, 8, [], None, [2, 1]]], [[0, 1, [], 0, None]], [[0, 1, ["\ud800"], 1, None]],
        [[0, 1]], 7, [[3, 8, [], None, 1]],
    ]  # fmt: skip
    bad = [
        *({**good, "chunks": row} for row in chunks),
        *({**good, "outline": outline} for outline in ('[["p",0,99]]', "{", '[["p",2,-1]]')),
        {**good, "text": "\ud800"}, {**good, "text": "x" * 100}, [], {},
    ]  # fmt: skip
    for answer in bad:
        with pytest.raises(Unreadable) as caught:
            checked(json.dumps(answer).encode(), max_characters=99)
        assert caught.value.reason == "CRASHED"
    assert load_outline("", length=0) == ()
