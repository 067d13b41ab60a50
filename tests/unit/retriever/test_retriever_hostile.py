"""What wants to harm the parsers is refused with its own reason and what to do, or read without harm."""

import ast
import json
from pathlib import Path

import pytest

import services.retriever.ingest
from services.retriever.domain import CSV, DOCX, EMAIL, HTML, MARKDOWN, PDF, PLAIN, XLSX
from services.retriever.ingest.reasons import ADVICE
from services.retriever.ingest.worker import answer_to
from tests.fakes import hostile

DEEP = 150


def ask(data: bytes, media_type: str) -> dict[str, object]:
    request = {"media_type": media_type, "limit": 200, "max_characters": 3_000_000}
    return answer_to(json.dumps(request).encode() + b"\n" + data)


def row(number: int, *cells: str) -> str:
    texts = "".join(f'<c r="{cell}" t="inlineStr"><is><t>x</t></is></c>' for cell in cells)
    return f'<row r="{number}">{texts}</row>'


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600
NESTED_XML = "<w:p>" * DEEP + "</w:p>" * DEEP
PAGE = b"BT /F 12 Tf 50 700 Td (Covered.) Tj ET"
REFUSED = {
    "a PDF that claims a gigabyte": (hostile.pdf_page(PAGE, length=1 << 30), PDF, "NO_TEXT"),
    "an archive that packs too well": (
        hostile.packed({"word/media/1.png": b"\0" * (9 << 20)}, into=hostile.word_file()), DOCX, "ZIP_BOMB"),
    "an archive that claims to be vast": (hostile.claiming(hostile.workbook_file(), size=1 << 30), XLSX, "ZIP_BOMB"),
    "a member that is longer than it claims": (hostile.claiming(hostile.word_file(), size=9), DOCX, "MALFORMED"),
    "an archive of very many members": (
        hostile.packed({f"{n}": "" for n in range(10_001)}), XLSX, "TOO_MANY_PARTS"),
    "no archive": (b"PK\x03\x04" + b"\0" * 99, XLSX, "MALFORMED"),
    "an archive cut short": (hostile.workbook_file()[:-300], XLSX, "MALFORMED"),
    "an archive of something else": (hostile.packed({"a.txt": "x"}), DOCX, "MALFORMED"),
    "an encrypted office file": (OLE + "EncryptedPackage".encode("utf-16-le"), XLSX, "ENCRYPTED"),
    "an old office file": (OLE, DOCX, "MALFORMED"),
    "a billion laughs in Word": (
        hostile.packed({"word/document.xml": hostile.LAUGHS}, into=hostile.word_file()), DOCX, "ENTITIES"),
    "a billion laughs in Excel": (
        hostile.packed({"xl/sharedStrings.xml": hostile.LAUGHS}, into=hostile.workbook_file()), XLSX, "ENTITIES"),
    "an outside entity, in UTF-16": (
        hostile.packed({"word/styles.xml": hostile.OUTSIDE.encode("utf-16")}, into=hostile.word_file()),
        DOCX, "ENTITIES"),
    "deep XML in Word": (hostile.word(NESTED_XML), DOCX, "TOO_DEEP"),
    "deep XML in Excel": (hostile.sheet("<row>" * DEEP + "</row>" * DEEP), XLSX, "TOO_DEEP"),
    "a row beyond the last": (hostile.sheet(row(10**9, "A1000000000")), XLSX, "MALFORMED"),
    "a sheet of too many columns": (hostile.sheet(row(1, "A1", "XFD1")), XLSX, "TOO_MANY_COLUMNS"),
    "a huge cell": (
        hostile.sheet(f'<row r="1"><c r="A1" t="inlineStr"><is><t>{"x" * 40_000}</t></is></c></row>'),
        XLSX, "CELL_TOO_LARGE"),
    "a million rows": (b"1,2\n" * 1_000_000, CSV, "TOO_MANY_ROWS"),
    "a row of a thousand and one columns": (b"x," * 1_000 + b"x", CSV, "TOO_MANY_COLUMNS"),
    "a cell without end": (b'a,"' + b"x" * 40_000, CSV, "CELL_TOO_LARGE"),
    "a table in another encoding": ("Prämie,10".encode("cp1252"), CSV, "ENCODING"),
    "half a UTF-16 text": ("text".encode("utf-16")[:-1], PLAIN, "ENCODING"),
    "a page in no encoding": (b"<p>\x81\x8d", HTML, "ENCODING"),
    "a page that lies about its encoding": (b"<meta charset=shift_jis><p>\x81", HTML, "ENCODING"),
    "deep HTML": (b"<div>" * 5_000 + b"x", HTML, "TOO_DEEP"),
    "deep HTML spans": (b"<b>" * 300 + b"x" + b"</b>" * 300 + b"after", HTML, "TOO_DEEP"),
    "deep e-mail parts": (hostile.mail(depth=40), EMAIL, "TOO_DEEP"),
    "endless e-mail parts in parts": (hostile.mail(depth=900), EMAIL, "TOO_DEEP"),
    "very many e-mail parts": (hostile.mail(parts=1_001), EMAIL, "TOO_MANY_PARTS"),
    "a flood of headers": (hostile.mail(headers=2_001), EMAIL, "TOO_MANY_HEADERS"),
    "a header without end": (hostile.mail(header=70_000), EMAIL, "TOO_MANY_HEADERS"),
    "deep HTML in an e-mail": (b"Content-Type: text/html\n\n" + b"<div>" * 5_000, EMAIL, "TOO_DEEP"),
    "an encrypted message": (b"Content-Type: application/pkcs7-mime\n\nx", EMAIL, "ENCRYPTED"),
    "no e-mail": (b"\nJust text", EMAIL, "MALFORMED"),
    "very many paragraphs": (b"a\n\n" * 100_001, PLAIN, "TOO_MANY_PARTS"),
    "a PDF of pages that are their own": (
        hostile.pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 9/Kids[2 0 R 2 0 R]>>"), PDF, "NO_TEXT"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "media_type", "reason"), REFUSED.values(), ids=REFUSED)
def test_hostile_files_are_refused_with_their_reason_and_what_to_do(data: bytes, media_type: str, reason: str) -> None:
    answer = ask(data, media_type)
    assert answer.get("reason") == reason
    assert str(answer["message"]).endswith(f"; {ADVICE[reason]}")


READ = {
    "claims of a PDF about its pages": (hostile.pdf_page(PAGE, count=10**9), PDF, "Covered."),
    "claims of a sheet about its size": (
        hostile.packed({"xl/worksheets/sheet1.xml":
            '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension '
            f'ref="A1:XFD1048576"/><sheetData>{row(1, "A1", "B1")}</sheetData></worksheet>'},
            into=hostile.workbook_file()), XLSX, "x | x"),
    "cells far below": (hostile.sheet(row(1_048_576, "A1048576", "C1048576")), XLSX, "x |  | x"),
    "an archive in the archive": (
        hostile.packed({"word/embeddings/1.zip": hostile.packed({"0": b"\0" * (1 << 20)})}, into=hostile.word_file()),
        DOCX, "Text."),
    "a part that is no XML": (hostile.packed({"customXml/item1.xml": "<<"}, into=hostile.word_file()), DOCX, "Text."),
    "deep Markdown": (b">" * 9_999 + b" quoted", MARKDOWN, "quoted"),
    "Markdown of nothing but brackets": (b"[" * 100_000 + b"![*_" * 20_000, MARKDOWN, "[["),
    "an address without end": (b"From: " + b"<(" * 20_000 + b"\nSubject: S\n\ntext", EMAIL, "text"),
    "a message whose boundary never comes": (hostile.mail(), EMAIL, "text"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "media_type", "text"), READ.values(), ids=READ)
def test_what_only_looks_dangerous_is_read(data: bytes, media_type: str, text: str) -> None:
    assert text in str(ask(data, media_type).get("text"))


def test_entities_of_other_files_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    entity = f'<!DOCTYPE p [<!ENTITY f SYSTEM "file://{tmp_path}/secret">]><p>shown &f;</p>'
    assert "secret" not in json.dumps(ask(entity.encode(), HTML))


def test_every_reason_that_is_given_is_written_down_with_advice() -> None:
    given = set()
    for file in Path(str(services.retriever.ingest.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refusal":
                assert isinstance(node.args[0], ast.Constant), f"{file}:{node.lineno} names its reason by a constant"
                given.add(node.args[0].value)
    assert given == set(ADVICE)
