"""Cuts documents into passages and ranks them by their words: what a search would bring, for training.

The cutting is plain on purpose; it needs to look like what the retriever
serves, not to be it.
"""

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from tandem.scoring import normalise
from training.data.words import plain
from training.recipes.asked import Document

_HEADING = re.compile(r"^(#{1,6} |\d{1,2}(?:\.\d+)* [A-Z][^.|\n]{0,60}$)", re.MULTILINE)
_STOPWORDS = frozenset(
    ("a", "an", "the", "of", "to", "in", "for", "is", "are", "be", "do", "does", "what", "which", "how", "when", "who")
)

# Thai, Lao, Burmese, Khmer, kana, and Han.
_NO_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Chunk:
    """Is a passage of a document."""

    document_id: str
    text: str
    title: str = ""


def cut(documents: Sequence[Document], *, max_characters: int = 900) -> list[Chunk]:
    """Returns the chunks of all documents in their order."""
    return [
        Chunk(document.document_id, chunk.text, document.title)
        for document in documents
        for chunk in chunks(document.document_id, document.text, max_characters=max_characters)
    ]


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
    """Ranks texts by BM25 over their words: a stand-in for the search that an adapter will read from."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._lengths = [0] * len(texts)
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, text in enumerate(texts):
            counts = Counter(_words(text))
            self._lengths[place] = counts.total()
            for word, count in counts.items():
                self._postings[word].append((place, count))
        self._mean = sum(self._lengths) / max(1, len(texts)) or 1.0

    def best(self, query: str, count: int) -> list[int]:
        """Returns the places of the `count` best texts, the best first; texts that share no word come last."""
        scores: dict[int, float] = defaultdict(float)
        # In a fixed order: sums of floats depend on theirs, and a set's changes between processes.
        for word in dict.fromkeys(_words(query)):
            postings = self._postings.get(word, ())
            rarity = math.log(1 + (len(self._lengths) - len(postings) + 0.5) / (len(postings) + 0.5))
            for place, seen in postings:
                length = self._lengths[place] / self._mean
                scores[place] += rarity * seen * 2.2 / (seen + 1.2 * (0.25 + 0.75 * length))
        best = heapq.nsmallest(count, scores, key=lambda place: (-scores[place], place))
        rest = (place for place in range(len(self._lengths)) if place not in scores)
        return [*best, *islice(rest, count - len(best))]


def _words(text: str) -> list[str]:
    return [word for word in normalise(text).split() if word not in _STOPWORDS]


def holds(text: str, answers: Sequence[str]) -> bool:
    """Tells whether the text holds one of the answers, word for word but for case, articles and punctuation.

    In scripts without blanks every character counts as a word.
    """
    words = f" {_apart(text)} "
    return any(f" {key} " in words for answer in answers if (key := _apart(answer)))


@lru_cache(maxsize=8192)  # The same passages are looked through for one question after the other.
def _apart(text: str) -> str:
    return " ".join(_NO_BLANKS.sub(r" \g<0> ", plain(text)).split())
