"""Extracts plain text from the formats that the sample company's documents come in."""

import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

_WORDPROCESSING = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_BLOCKS = frozenset(("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "br"))
_HIDDEN = frozenset(("script", "style", "title"))


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0
        self._in_head = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # An end tag may be missing or stand alone: what is shown ends the head, and nothing is hidden from the body on.
        self._in_head = tag == "head" or (self._in_head and tag != "body" and tag not in _BLOCKS)
        self._hidden = 0 if tag == "body" else self._hidden + (tag in _HIDDEN)
        self.parts.append("\n\n" if tag in _BLOCKS else " | " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        self._in_head &= tag != "head"
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self.parts.append("\n\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if not self._hidden and not self._in_head:
            self.parts.append(re.sub(r"\s+", " ", data))


def extract(path: Path) -> str:
    """Returns a document's text with blank lines between paragraphs; raises ValueError for an unknown format."""
    if path.suffix in (".md", ".txt"):
        return path.read_text(encoding="utf-8")
    if path.suffix in (".html", ".htm"):
        parser = _Text()
        parser.feed(path.read_text(encoding="utf-8"))
        parser.close()
        return "".join(parser.parts)
    if path.suffix == ".docx":
        with zipfile.ZipFile(path) as archive:
            root = ElementTree.fromstring(archive.read("word/document.xml"))  # noqa: S314  (the company's own)
        paragraphs = root.iter(f"{_WORDPROCESSING}p")
        return "\n\n".join("".join(t.text or "" for t in p.iter(f"{_WORDPROCESSING}t")) for p in paragraphs)
    if path.suffix == ".pdf":
        from pypdf import PdfReader

        return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    raise ValueError(f"no text extraction for {path.suffix} files")
