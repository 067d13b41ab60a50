"""Files that mean harm to whoever reads them, each small to keep and large or endless to read."""

import io
import zipfile
import zlib

import docx
import openpyxl

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + ']><lolz xmlns="x">&a9;</lolz>'
)
OUTSIDE = '<!DOCTYPE d [<!ENTITY file SYSTEM "file:///etc/passwd">]><d xmlns="x">&file;</d>'
_SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
_WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{}</w:body></w:document>'


def word_file(text: str = "Text.") -> bytes:
    """Returns a Word document of one paragraph."""
    document, file = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(file)
    return file.getvalue()


def workbook_file() -> bytes:
    """Returns a workbook of one small table."""
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["plan", "fee"])
    book.active.append(["basic", 10])
    book.save(file)
    return file.getvalue()


def packed(members: dict[str, bytes | str], *, into: bytes = b"") -> bytes:
    """Returns a zip archive with the members of another one, replaced where they have the same name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if into:
            with zipfile.ZipFile(io.BytesIO(into)) as before:
                for name in before.namelist():
                    if name not in members:
                        archive.writestr(name, before.read(name))
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def word(body: str) -> bytes:
    """Returns a Word document with that XML as its body."""
    return packed({"word/document.xml": _WORD.format(body)}, into=word_file())


def sheet(rows: str) -> bytes:
    """Returns a workbook with that XML as the data of its sheet."""
    return packed({"xl/worksheets/sheet1.xml": _SHEET.format(rows)}, into=workbook_file())


def claiming(archive: bytes, *, size: int) -> bytes:
    """Returns the archive, whose first member claims to unpack to that size."""
    at = archive.index(b"PK\x01\x02")
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


def pdf(*objects: bytes) -> bytes:
    """Returns a PDF of those objects, the first of which is the catalogue."""
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = len(objects) + 1
    return out + b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        end, table, end, len(out),
    )  # fmt: skip


def pdf_page(stream: bytes, *, filters: bytes = b"", length: int | None = None, count: int = 1) -> bytes:
    """Returns a PDF of one page; length and count are what it claims."""
    claimed = len(stream) if length is None else length
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[3 0 R]>>" % count,
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1"
        b"/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d%b>>stream\n%b\nendstream" % (claimed, filters, stream),
    )


def pdf_bomb(mebibytes: int) -> bytes:
    """Returns a PDF whose page is packed twice and unpacks to so much."""
    once = zlib.compressobj(9)
    blank = b" " * (1 << 20)
    inner = b"".join(once.compress(blank) for _ in range(mebibytes)) + once.flush()
    return pdf_page(zlib.compress(inner, 9), filters=b"/Filter[/FlateDecode/FlateDecode]")


def mail(*, depth: int = 1, parts: int = 1, headers: int = 1, header: int = 1) -> bytes:
    """Returns an e-mail of so many nested parts, parts beside another, headers, and characters of a header."""
    opening = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    many = f"\n--b{depth - 1}\n".join(["Content-Type: text/plain\n\ntext"] * parts)
    return ("Subject: x\n" + "X-Flood: y\n" * headers + f"X-Long: {'z' * header}\n" + opening + many).encode()


def member(archive: bytes, name: str) -> bytes:
    """Returns what a member of an archive unpacks to."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(name)
