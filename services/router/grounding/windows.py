"""The parts of passages that an answer may rest on, each a span of its document, and which of them are near a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from services.router.domain import Passage, Span
from services.router.grounding.lexical import about_of, citable
from services.router.grounding.text import Sentence, content_of, sentences_of, terms_of, unglued, with_pairs

MAX_WINDOWS = 512
"""Most sentences and pairs of neighbouring sentences that are looked at, from the first passage on."""


@dataclass(frozen=True, eq=False)
class Window:
    """Is a sentence of a passage, or two neighbouring ones."""

    passage: Passage
    sentence: Sentence
    about: frozenset[str]
    """Words of title and headings, and of the head of the table that it is a row of."""

    @property
    def span(self) -> Span:
        """Is where it stands in the passage's text."""
        return Span(self.sentence.start, self.sentence.end)

    @cached_property
    def text(self) -> str:
        """Is its text."""
        return self.passage.text[self.sentence.start : self.sentence.end]

    @cached_property
    def content(self) -> frozenset[str]:
        """Are its content words, those that lost their blank between them as well."""
        return self.sentence.content | content_of(terms_of(unglued(self.text)))

    @cached_property
    def words(self) -> frozenset[str]:
        """Are all its words, small ones as well."""
        return frozenset((*self.sentence.terms, *terms_of(unglued(self.text))))


def windows_of(passages: Sequence[Passage]) -> list[Window]:
    """Returns at most MAX_WINDOWS windows, in the order of the passages; of a passage without sentences, its text."""
    found: list[Window] = []
    for passage in citable(passages):
        about = about_of(passage)
        sentences = with_pairs(sentences_of(passage.text))
        for sentence in sentences:
            found.append(Window(passage, sentence, about | sentence.header))
            if len(found) == MAX_WINDOWS:
                return found
    return found


def coverage(claim: Sentence, window: Window) -> float:
    """Returns the share of the claim's content words that the window, its title or its headings hold, 0 to 1.

    Words of the title count half: they say what the document is about, not what it says of it.
    """
    if not claim.content:
        return 0.0
    held = len(claim.content & window.content)
    named = len(claim.content & window.about - window.content)
    return (held + 0.5 * named) / len(claim.content)


def ranked(claim: Sentence, windows: Sequence[Window]) -> list[tuple[float, int]]:
    """Returns (coverage, place) of the windows, best first; of equals a single sentence, then the first."""
    found = [(coverage(claim, window), place) for place, window in enumerate(windows)]
    return sorted(found, key=lambda one: (-one[0], windows[one[1]].sentence.is_pair, one[1]))
