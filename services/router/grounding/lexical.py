"""Which part of which passage says a sentence of an answer, by words and figures alone: no model.

A part says a sentence (`tied`) where it holds all of its figures with their units, agrees with it on negation, and
holds at least `SUPPORT` of its content words, not counting those that title and headings hold. An answer of a few words
("14 days") has no redundancy to weigh, so it must stand in the part word for word, and the part or its section must
speak of what was asked.
"""

import re
from collections.abc import Sequence

from services.router.domain import Citation, Passage, Span
from services.router.grounding.text import Sentence, content_of, sentences_of, terms_of, trim
from services.router.grounding.windows import Window, citation_of

SUPPORT = 0.6
"""Least share of the answer sentence's own content words that a part must hold."""
SHORT = 3
"""Most content words of an answer that must match word for word."""
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_UNITS = frozenset(("eur", "usd", "gbp", "%", "km"))
MAX_EXTRACT = 600
"""Most characters of a quotation that stands for an answer."""


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


def tied(claim: Sentence, windows: Sequence[Window], asked: frozenset[str]) -> int | None:
    """Returns the place of the window that says the claim, the best of several; None where none does."""
    best: tuple[float, int] | None = None
    for place, window in enumerate(windows):
        score = _score(claim, window, asked)
        if score is not None and (best is None or score > best[0] + 1e-9):
            best = (score, place)
    return best and best[1]


def holds(figure: str, claim: Sentence, window: Window) -> bool:
    """Tells whether the window has the claim's figure, of the same thing: EUR 60 is not 60 %. A year is a year."""
    units, sentence = claim.units[figure], window.sentence
    if figure in sentence.units:
        is_year = bool(_YEAR.fullmatch(figure)) and not units & _UNITS
        return is_year or not units or bool(units & (sentence.units[figure] | sentence.header))
    return figure in window.about


def extract(question: str, passage: Passage) -> tuple[str, Citation]:
    """Returns at most MAX_EXTRACT characters of whole sentences around the one nearest to the question, and where."""
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


def _score(claim: Sentence, window: Window, asked: frozenset[str]) -> float | None:
    """Returns how well a window says a claim, None where it does not.

    What title and headings say ("Halden Motor") holds for the sentences under them and need not be repeated.
    """
    sentence, about = window.sentence, window.about
    if not claim.terms or not all(holds(figure, claim, window) for figure in claim.units):
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


def _contains(terms: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(terms[at : at + len(wanted)] == wanted for at in range(len(terms) - len(wanted) + 1))
