import io
import json
import zipfile

import docx
import pytest
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.chunking import cut
from services.retriever.domain import DOCX, HTML, MARKDOWN, PDF, PLAIN, Kind, Unreadable
from services.retriever.ingest.parsers import extract
from services.retriever.ingest.parsers.canonical import Extracted
from services.retriever.ingest.worker import answer_to


def shape(extracted: Extracted) -> list[tuple[Kind, str]]:
    return [(block.kind, extracted.text[block.start : block.end].strip()) for block in extracted.blocks]


def headings(extracted: Extracted) -> list[tuple[int, str]]:
    return [(block.level, block.title) for block in extracted.blocks if block.kind is Kind.HEADING]


def ask(data: bytes, media_type: str, **fields: int) -> dict[str, object]:
    request = {"media_type": media_type, "limit": 200, "max_characters": 10_000, **fields}
    return answer_to(json.dumps(request).encode() + b"\n" + data)


def test_markdown_stays_its_source_text() -> None:
    source = (
        "---\nowner: us\n---\n# Motor *cover*\r\n\r\nA paragraph\nof two lines.\n\n- one\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\nSub\n---\n\n```\n# no heading\n```\n"
    )
    extracted = extract(b"\xef\xbb\xbf" + source.encode(), MARKDOWN)
    assert extracted.text == source.replace("\r\n", "\n")
    assert headings(extracted) == [(1, "Motor cover"), (2, "Sub")]
    assert shape(extracted) == [
        (Kind.HEADING, "# Motor *cover*"),
        (Kind.PARAGRAPH, "A paragraph\nof two lines."),
        (Kind.LIST, "- one\n- two"),
        (Kind.TABLE, "| a | b |\n|---|---|\n| 1 | 2 |"),
        (Kind.HEADING, "Sub\n---"),
        (Kind.PARAGRAPH, "```\n# no heading\n```"),
    ]


def test_plain_text_is_cut_at_blank_lines() -> None:
    extracted = extract("First é\nline.\n \n\nSecond.".encode(), PLAIN)
    assert shape(extracted) == [(Kind.PARAGRAPH, "First é\nline."), (Kind.PARAGRAPH, "Second.")]
    assert extract("Grüße".encode("utf-16"), PLAIN).text == "Grüße"


def test_html_shows_what_a_reader_sees() -> None:
    page = """<html><head><title>T</title><style>p{}</style></head><body><nav>menu</nav><h1>Home
      cover</h1><p>Water <b>damage</b> is<br>covered.<script>x()</script></p>stray &amp; text
      <ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul>
      <table><caption>Limits</caption><tr><th>plan</th><th>limit</th></tr><tr><td>a|b</td><td>100</td></tr>
      <tr><td colspan="2">all</td></tr></table><div hidden>secret</div><!-- note --></body></html>"""
    extracted = extract(page.encode(), HTML)
    assert shape(extracted) == [
        (Kind.HEADING, "Home cover"),
        (Kind.PARAGRAPH, "Water damage is covered."),
        (Kind.PARAGRAPH, "stray & text"),
        (Kind.LIST, "- one\n  - inner\n- two"),
        (Kind.PARAGRAPH, "Limits"),
        (Kind.TABLE, "| plan | limit |\n| --- | --- |\n| a\\|b | 100 |\n| all |"),
    ]
    assert headings(extracted) == [(1, "Home cover")]


def word_file() -> bytes:
    document = docx.Document()
    document.add_heading("Travel", level=0)
    document.add_heading("Luggage", level=2)
    document.add_paragraph("Luggage is covered up to a limit.")
    document.add_paragraph("camera", style="List Bullet")
    document.add_paragraph("laptop", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip([*table.rows[0].cells, *table.rows[1].cells], ["plan", "limit", "basic", "500"], strict=True):
        cell.text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def test_word_documents_keep_their_structure() -> None:
    extracted = extract(word_file(), DOCX)
    assert shape(extracted) == [
        (Kind.HEADING, "Travel"),
        (Kind.HEADING, "Luggage"),
        (Kind.PARAGRAPH, "Luggage is covered up to a limit."),
        (Kind.LIST, "- camera\n- laptop"),
        (Kind.TABLE, "| plan | limit |\n| --- | --- |\n| basic | 500 |"),
    ]
    assert headings(extracted) == [(1, "Travel"), (2, "Luggage")]


def pdf_file(*, password: str = "") -> bytes:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", size=18)
    pdf.cell(text="Pet insurance", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(8)
    pdf.set_font("Helvetica", size=10)
    pdf.multi_cell(0, text="Dogs and cats are covered against illness. " * 6)
    pdf.add_page()
    with pdf.table() as table:
        for cells in (("plan", "limit"), ("basic", "1000")):
            row = table.row()
            for cell in cells:
                row.cell(cell)
    if password:
        pdf.set_encryption(owner_password=password, user_password=password)
    return bytes(pdf.output())


def test_pdf_pages_headings_and_tables() -> None:
    extracted = extract(pdf_file(), PDF)
    assert shape(extracted) == [
        (Kind.HEADING, "Pet insurance"),
        (Kind.PARAGRAPH, ("Dogs and cats are covered against illness. " * 6).strip()),
        (Kind.TABLE, "| plan | limit |\n| --- | --- |\n| basic | 1000 |"),
    ]
    assert [block.page for block in extracted.blocks] == [1, 1, 2]
    assert headings(extracted) == [(1, "Pet insurance")]


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"word/{number}.xml", b"\0" * (60 * 1024 * 1024))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (b"\xff\xfeodd", PLAIN, "ENCODING"),
        (b"caf\xe9", MARKDOWN, "ENCODING"),
        (b" \n\t", PLAIN, "NO_TEXT"),
        (b"", HTML, "NO_TEXT"),
        (b"%PDF-1.4 nothing", PDF, "MALFORMED"),
        (b"", PDF, "MALFORMED"),
        (pdf_file(password="x"), PDF, "ENCRYPTED"),
        (b"PK\x03\x04", DOCX, "MALFORMED"),
        (zip_bomb(), DOCX, "ZIP_BOMB"),
        (b"a" * 10_001, PLAIN, "TOO_LARGE"),
        (b"x", "text/x-unknown", "UNSUPPORTED_MEDIA_TYPE"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_reason(data: bytes, media_type: str, reason: str) -> None:
    assert ask(data, media_type)["reason"] == reason


@given(st.binary(max_size=300), st.sampled_from([MARKDOWN, PLAIN, HTML, PDF, DOCX]))
def test_no_bytes_break_the_worker(data: bytes, media_type: str) -> None:
    answer = ask(data, media_type)
    assert "reason" in answer or str(answer["text"]).encode()


@given(st.text(alphabet="ab#|-* \n>`1.=&<é", max_size=300), st.sampled_from([MARKDOWN, PLAIN, HTML]))
def test_blocks_lie_in_the_text_in_order_and_apart(source: str, media_type: str) -> None:
    try:
        extracted = extract(source.encode(), media_type)
    except Unreadable:
        return
    at = 0
    for block in extracted.blocks:
        assert at <= block.start <= block.end <= len(extracted.text)
        at = block.end
    chunks = cut(extracted.text, extracted.blocks, limit=40)
    assert "".join("".join(extracted.text[c.start : c.end].split()) for c in chunks) == "".join(extracted.text.split())


def test_what_cannot_be_stored_is_replaced() -> None:
    assert extract(b"a\x00b", PLAIN).text == "a\ufffdb"
    extract(b"<p>&#xD800;&#0;x</p>", HTML).text.encode()
