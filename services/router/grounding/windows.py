"""The parts of passages that an answer may rest on, each a span of its document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.router.domain import Citation, Passage, Span
from services.router.grounding.text import Sentence, content_of, sentences_of, terms_of, unglued, with_pairs

MAX_WINDOWS = 512
"""Most sentences and pairs of neighbouring sentences that are looked at, from the first passage on."""


@dataclass(frozen=True, eq=False)
class Window:
    """Is a sentence of a passage, or two neighbouring ones."""

    passage: Passage
    sentence: Sentence
    about: frozenset[str]
    """Words of title and headings, and of the head of the table that it is a row of, there without its figures."""

    @property
    def span(self) -> Span:
        """Is where it stands in the passage's text."""
        return Span(self.sentence.start, self.sentence.end)

    @cached_property
    def text(self) -> str:
        """Is its text."""
        return self.passage.text[self.sentence.start : self.sentence.end]

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """Are its words; those that lost their blank between them ("4.Bold") follow, told apart, where it has any."""
        whole = unglued(self.text)
        return self.sentence.terms if whole == self.text else (*self.sentence.terms, *terms_of(whole))

    @cached_property
    def content(self) -> frozenset[str]:
        """Are its content words."""
        return content_of(self.terms)


def windows_of(passages: Sequence[Passage]) -> list[Window]:
    """Returns at most MAX_WINDOWS windows, in the order of the passages."""
    found: list[Window] = []
    for passage in citable(passages):
        about = about_of(passage)
        for sentence in with_pairs(sentences_of(passage.text)):
            header = {word for word in sentence.header if not word[0].isdigit()}
            found.append(Window(passage, sentence, about | header))
            if len(found) == MAX_WINDOWS:
                return found
    return found


def citable(passages: Sequence[Passage]) -> Iterator[Passage]:
    """Leaves out a passage whose text is not what its offsets say: a quote must be found again in the document."""
    return (passage for passage in passages if passage.span.end - passage.span.start == len(passage.text))


def about_of(passage: Passage) -> frozenset[str]:
    """Returns the words of title and headings; a figure in a title names the document, in a heading it counts."""
    headings = content_of(terms_of(" ".join(passage.headings)))
    return content_of(terms_of(passage.title)) | {word for word in headings if not word[0].isdigit()}


def citation_of(answer: Span, passage: Passage, part: Span) -> Citation:
    """Returns the citation of a part of a passage's text, in the document's own offsets."""
    return Citation(
        answer_span=answer,
        document_id=passage.document_id,
        chunk_id=passage.chunk_id,
        title=passage.title,
        document_span=Span(passage.span.start + part.start, passage.span.start + part.end),
        quote=passage.text[part.start : part.end],
        page=passage.page,
    )
