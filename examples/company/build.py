"""Writes the PDF and DOCX documents of the sample company from their Markdown sources.

`python examples/company/build.py` rewrites every document in manifest.jsonl whose path ends in .pdf or .docx.
The sources use a small part of Markdown: headings, paragraphs, bullet lists and tables. The output is reproducible:
dates and metadata are fixed, and nothing depends on the machine, so a test compares it with what is committed.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import docx
from fpdf import FPDF, FontFace

ROOT = Path(__file__).resolve().parent
FIXED_TIME = datetime(2026, 10, 1, tzinfo=UTC)
TITLE_SIZE, HEADING_SIZE, BODY_SIZE = 18, 13, 10


@dataclass(frozen=True)
class Block:
    """One piece of a source: kind is "title", "heading", "text", "item" or "table"."""

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def parse(source: str) -> Iterator[Block]:
    """Yields the blocks of a source in order. Paragraphs are separated by blank lines."""
    for part in source.strip().split("\n\n"):
        lines = [line.strip() for line in part.splitlines()]
        if lines[0].startswith("## "):
            yield Block("heading", lines[0][3:])
        elif lines[0].startswith("# "):
            yield Block("title", lines[0][2:])
        elif lines[0].startswith("|"):
            rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
            yield Block("table", rows=(rows[0], *rows[2:]))
        elif lines[0].startswith("- "):
            yield from (Block("item", line[2:]) for line in lines)
        else:
            yield Block("text", " ".join(lines))


def render_pdf(source: str) -> bytes:
    """Returns a PDF with selectable text. Streams stay uncompressed: the bytes then depend on no zlib version."""
    pdf = FPDF(format="A4")
    pdf.set_compression(False)
    pdf.set_creation_date(FIXED_TIME)
    pdf.set_producer("Halden document desk")
    pdf.set_margin(20)
    pdf.add_page()
    for block in parse(source):
        if block.kind in ("title", "heading"):
            size = TITLE_SIZE if block.kind == "title" else HEADING_SIZE
            if block.kind == "title":
                pdf.set_title(block.text)
            pdf.set_font("Helvetica", "B", size)
            pdf.ln(size / 5)
            pdf.multi_cell(0, size * 0.5, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(1.5)
            continue
        pdf.set_font("Helvetica", "", BODY_SIZE)
        if block.kind == "table":
            with pdf.table(headings_style=FontFace(emphasis="BOLD"), text_align="LEFT", line_height=6) as table:
                for row in block.rows:
                    table.row(row)
        else:
            text = f"- {block.text}" if block.kind == "item" else block.text
            pdf.multi_cell(0, 5, text, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(2)
    return bytes(pdf.output())


def render_docx(source: str) -> bytes:
    """Returns a DOCX with heading styles, list styles and real tables."""
    document = docx.Document()
    properties = document.core_properties
    properties.author = properties.last_modified_by = "Halden document desk"
    properties.created = properties.modified = FIXED_TIME.replace(tzinfo=None)
    properties.comments = ""
    for block in parse(source):
        if block.kind == "title":
            properties.title = block.text
            document.add_heading(block.text, level=1)
        elif block.kind == "heading":
            document.add_heading(block.text, level=2)
        elif block.kind == "table":
            table = document.add_table(rows=0, cols=len(block.rows[0]), style="Table Grid")
            for row in block.rows:
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        else:
            document.add_paragraph(block.text, style="List Bullet" if block.kind == "item" else None)
    raw = io.BytesIO()
    document.save(raw)
    return _with_fixed_times(raw.getvalue())


def _with_fixed_times(archive: bytes) -> bytes:
    """Returns the same zip archive with every member dated FIXED_TIME."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            info = zipfile.ZipInfo(name, FIXED_TIME.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 0
            new.writestr(info, old.read(name))
    return out.getvalue()


def built_documents(root: Path = ROOT) -> Iterator[tuple[Path, bytes]]:
    """Yields (path, content) of every PDF and DOCX that the manifest names."""
    renderers = {".pdf": render_pdf, ".docx": render_docx}
    for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        path = root / entry["path"]
        if path.suffix in renderers:
            source = root / "sources" / entry["tenant"] / f"{path.stem}.md"
            yield path, renderers[path.suffix](source.read_text(encoding="utf-8"))


def main() -> None:
    """Rewrites the generated documents in place."""
    for path, content in built_documents():
        path.write_bytes(content)


if __name__ == "__main__":
    main()
