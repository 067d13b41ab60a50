"""Cuts a tenant's documents into passages and builds reading cases: a question with what a search would bring.

The text extraction here is plain on purpose; it needs to look like what the
retriever serves, not to be it.
"""

import math
import random
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tandem import prompts
from tandem.prompts import ABSTENTION
from tandem.scoring import normalise
from training.company import Company

_WORDPROCESSING = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_BLOCKS = frozenset(("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "br"))
_HIDDEN = frozenset(("script", "style", "head", "title"))
_HEADING = re.compile(r"^(#{1,6} |\d{1,2}(?:\.\d+)* [A-Z][^.|\n]{0,60}$)", re.MULTILINE)
_STOPWORDS = frozenset(
    ("a", "an", "the", "of", "to", "in", "for", "is", "are", "be", "do", "does", "what", "which", "how", "when", "who")
)


@dataclass(frozen=True)
class Chunk:
    """Is a passage of a document."""

    document_id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class ReadingCase:
    """Is a question with passages, best first; the answers hold the abstention where no passage has the answer."""

    question: str
    passages: tuple[str, ...]
    answers: tuple[str, ...]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _HIDDEN
        self.parts.append("\n\n" if tag in _BLOCKS else " | " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN
        self.parts.append("\n\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def extract(path: Path) -> str:
    """Returns a document's text with blank lines between paragraphs; raises ValueError for an unknown format."""
    if path.suffix in (".md", ".txt"):
        return path.read_text(encoding="utf-8")
    if path.suffix in (".html", ".htm"):
        parser = _Text()
        parser.feed(path.read_text(encoding="utf-8"))
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


def chunks(document_id: str, text: str, *, max_characters: int = 900) -> list[Chunk]:
    """Packs the paragraphs of a section into chunks of up to max_characters; longer ones are cut between sentences.

    A heading begins a section: a line that starts with "#", or with a number before a few words.
    """
    sections = _HEADING.sub(r"\f\1", text).split("\f")
    return [chunk for section in sections for chunk in _pack(document_id, section, max_characters)]


def _pack(document_id: str, section: str, max_characters: int) -> list[Chunk]:
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", section):
        paragraph = paragraph.strip()
        if len(paragraph) <= max_characters:
            pieces.append(paragraph)
        else:
            pieces += re.split(r"(?<=[.!?])\s+|\n", paragraph)
    found: list[Chunk] = []
    current = ""
    for piece in filter(None, pieces):
        if current and len(current) + len(piece) > max_characters:
            found.append(Chunk(document_id, current))
            current = ""
        current = f"{current}\n\n{piece}" if current else piece
    return [*found, Chunk(document_id, current)] if current else found


class WordIndex:
    """Ranks chunks by BM25 over their words: a stand-in for the search that the adapter will read from."""

    def __init__(self, found: Sequence[Chunk]) -> None:
        self._chunks = found
        self._counts = [Counter(_words(chunk.text)) for chunk in found]
        self._mean = sum(sum(count.values()) for count in self._counts) / max(1, len(found))
        self._frequency = Counter(word for count in self._counts for word in count)

    def rank(self, question: str) -> list[Chunk]:
        """Returns all chunks, the best first."""
        words = set(_words(question))
        scores = [sum(self._weight(word, count) for word in words) for count in self._counts]
        return [self._chunks[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])]

    def _weight(self, word: str, count: Counter[str]) -> float:
        if not count[word]:
            return 0.0
        seen = self._frequency[word]
        rarity = math.log(1 + (len(self._chunks) - seen + 0.5) / (seen + 0.5))
        length = sum(count.values()) / self._mean
        return rarity * count[word] * 2.2 / (count[word] + 1.2 * (0.25 + 0.75 * length))


def _words(text: str) -> list[str]:
    return [word for word in normalise(text).split() if word not in _STOPWORDS]


def tenant_chunks(company: Company, folder: Path, *, max_characters: int = 900) -> list[Chunk]:
    """Returns the chunks of the tenant's documents that everyone in the tenant may read and that are still valid."""
    rows = [row for row in company.manifest if not row["groups"] and row["valid_until"] is None]
    return [
        replace(chunk, title=row["title"])
        for row in rows
        for chunk in chunks(row["document_id"], extract(folder / row["path"]), max_characters=max_characters)
    ]


def reading_cases(
    rows: Sequence[dict[str, Any]],
    chunkings: Sequence[Sequence[Chunk]],
    *,
    seed: int,
    variants: int = 1,
    max_passages: int = 5,
    absent_share: float = 0.1,
) -> list[ReadingCase]:
    """Returns cases for each row whose answer stands in a passage of its gold document, or that has no answer.

    Each row comes in several variants that differ in what a search might do:
    how finely the documents are cut, how many passages there are, whether
    they carry their document's title, and where the right one stands. In
    absent_share of the answerable cases the gold passage is left out, and the
    answer to learn is the abstention.
    """
    rng = random.Random(seed)  # noqa: S311  (choice of passages)
    indexes = [WordIndex(found) for found in chunkings]
    cases: list[ReadingCase] = []
    for row in rows:
        if row.get("history"):
            continue
        for _ in range(variants):
            ranked = rng.choice(indexes).rank(row["question"])
            if case := _case(row, ranked, rng, rng.randint(2, max_passages), absent_share):
                cases.append(case)
    return cases


def _case(
    row: dict[str, Any], ranked: Sequence[Chunk], rng: random.Random, num_passages: int, absent_share: float
) -> ReadingCase | None:
    golds = [c for c in ranked if c.document_id in row["gold_documents"] and holds(c.text, row["answers"])]
    if row["answers"] and not golds:
        return None
    others = [c for c in ranked if c not in golds][:8]
    if not golds or rng.random() < absent_share:
        chosen, answers = others[:num_passages], (ABSTENTION,)
    else:
        rest = rng.sample(others[:6], min(num_passages - 1, len(others)))
        rest.sort(key=others.index)
        place = min(len(rest), rng.choices((0, 1, 2), (6, 3, 1))[0])
        chosen, answers = [*rest[:place], golds[0], *rest[place:]], tuple(row["answers"])
    titled = rng.random() < 0.5
    texts = tuple(prompts.passage(c.title, c.text) if titled else c.text for c in chosen)
    return ReadingCase(row["question"], texts, answers)


def holds(text: str, answers: Sequence[str]) -> bool:
    """Tells whether the text holds one of the answers, word for word after normalising."""
    words = f" {normalise(text)} "
    return any(f" {normalise(answer)} " in words for answer in answers)
