"""Which part of which passage supports which sentence of an answer: by words and figures, deterministic, no model.

A sentence of the answer is supported by a passage sentence that holds all of its figures with their units, agrees with
it on negation, and holds at least `SUPPORT` of its content words, not counting those that the passage's title and
headings hold. An answer of a few words ("14 days") has no redundancy to weigh, so it must stand in the passage word for
word, in a sentence or section that speaks of what was asked. Only text that was retrieved can be cited.
"""

from collections.abc import Iterator, Sequence

from services.router.domain import Citation, Passage, Span
from services.router.grounding.text import Sentence, claims, content_of, sentences_of, terms_of, trim, with_pairs

SUPPORT = 0.6
"""Least share of the answer sentence's own content words that the passage sentence must hold."""
SHORT = 3
"""Most content words of an answer that must match word for word."""
MAX_EXTRACT = 600
"""Most characters of a quotation that stands for an answer."""


class LexicalGrounding:
    """Aligns answers with passages by words and figures."""

    def cite(self, question: str, answer: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
        """Returns a citation for each sentence of the answer that a passage supports, in the order of the answer."""
        candidates = [(passage, with_pairs(sentences_of(passage.text))) for passage in citable(passages)]
        asked = content_of(terms_of(question))
        found = []
        for claim in claims(answer):
            best: tuple[float, Passage, Sentence] | None = None
            for passage, sentences in candidates:
                about = about_of(passage)
                for sentence in sentences:
                    score = _score(claim, sentence, asked=asked, about=about)
                    if score is not None and (best is None or score > best[0] + 1e-9):
                        best = (score, passage, sentence)
            if best is not None:
                found.append(citation_of(Span(claim.start, claim.end), best[1], Span(best[2].start, best[2].end)))
        return tuple(found)

    def extract(self, question: str, passage: Passage) -> tuple[str, Citation]:
        """Returns at most MAX_EXTRACT characters of whole sentences around the one nearest to the question."""
        sentences = sentences_of(passage.text)
        if not sentences or len(passage.text.strip()) <= MAX_EXTRACT:
            start, end = trim(passage.text, 0, len(passage.text))
        else:
            asked = content_of(terms_of(question))
            near = max(range(len(sentences)), key=lambda index: (len(asked & sentences[index].content), -index))
            start, end = sentences[near].start, sentences[near].end
            for sentence in sentences[near + 1 :]:
                if sentence.end - start > MAX_EXTRACT:
                    break
                end = sentence.end
            end = min(end, start + MAX_EXTRACT)
        text = passage.text[start:end]
        return text, citation_of(Span(0, len(text)), passage, Span(start, end))


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


def _score(claim: Sentence, sentence: Sentence, *, asked: frozenset[str], about: frozenset[str]) -> float | None:
    """Returns how well a passage sentence supports a claim, None when it does not.

    What the title and the headings say ("Halden Motor") holds for the sentences under them and need not be repeated.
    """
    about = about | {word for word in sentence.header if not word[0].isdigit()}
    if not claim.terms or not all(holds(figure, claim, sentence, about) for figure in claim.units):
        return None
    if len(claim.content) <= SHORT:
        if not claim.content or not _contains(sentence.terms, claim.terms):
            return None
        if asked and not asked & (sentence.content | about):
            return None
        support = 1.0
    else:
        own = claim.content - about
        held = own & sentence.content
        if claim.negated != sentence.negated or len(held) < 2:
            return None
        support = len(held) / len(own)
        if support < SUPPORT:
            return None
    # One sentence before two; then the sentence, then the section, that speaks of what was asked; then the shorter one.
    nearness = (len(asked & sentence.content) + 0.5 * len(asked & about - sentence.content)) / (len(asked) or 1)
    return support - 2 * sentence.is_pair + 0.5 * nearness - 0.0002 * (sentence.end - sentence.start)


def holds(figure: str, claim: Sentence, sentence: Sentence, about: frozenset[str]) -> bool:
    """Tells whether the sentence has the figure, of the same thing: EUR 60 is not 60 %."""
    units = claim.units[figure]
    if figure in sentence.units:
        return not units or bool(units & (sentence.units[figure] | sentence.header))
    return figure in about


def _contains(terms: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(terms[at : at + len(wanted)] == wanted for at in range(len(terms) - len(wanted) + 1))
