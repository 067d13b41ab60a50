"""What words, figures, names, vectors and likelihoods say of a sentence's support, each as a number with a name.

| reading | what it is |
|---|---|
| `told`, `repeated`, `asked`, `new` | log(1 + count) of the content words that stand in the passages alone, in passages and question, in the question alone, in neither |
| `told_names`, `new_names` | the same of capitalised words: in the passages alone, in neither |
| `new_figures` | the same of figures that no part of a passage holds with their unit |
| `coverage`, `full` | share of content words that the nearest part of a passage holds; what of it is above 0.8 |
| `words`, `all_words` | share of all words that stand anywhere in the passages; what of it is above 0.8 |
| `negation` | 1 where the nearest part speaks of the same and one of the two is negated |
| `near`, `echo` | cosine of the sentence with the nearest part, with the question |
| `gain`, `lost`, `guessed` | in nats: mean gain of the tokens' logprob by the passages; log(1 + sum of what tokens lose by them); mean logprob without passages |
"""  # noqa: E501

import math
from collections.abc import Mapping, Sequence

from services.router.domain.grounding import TokenLikelihood
from services.router.grounding.lexical import holds
from services.router.grounding.text import Sentence, content_of, names_of, terms_of
from services.router.grounding.windows import Window

SAME_SUBJECT = 0.5
"""Least coverage of a part whose negation is compared: of another subject it tells nothing."""
_FULL = 0.8
_UNLIKELY = -30.0
"""Least logprob that counts: beyond it one token would outweigh a sentence."""


def asked_words(question: str) -> frozenset[str]:
    """Returns the content words of a question."""
    return content_of(terms_of(question))


def known_words(windows: Sequence[Window]) -> frozenset[str]:
    """Returns the content words of the passages, their titles and headings."""
    return frozenset().union(*(window.content | window.about for window in windows))


def lexical(
    text: str,
    claim: Sentence,
    windows: Sequence[Window],
    *,
    known: frozenset[str],
    asked: frozenset[str],
    nearest: tuple[float, int],
) -> dict[str, float]:
    """Returns the readings of a claim, text[claim.start:claim.end] of an answer, by words alone."""
    best = windows[nearest[1]].sentence
    names = names_of(text[claim.start : claim.end]) & claim.content
    new = claim.content - known - asked
    words = frozenset().union(*(window.words for window in windows)) | known
    share = sum(term in words for term in claim.terms) / (len(claim.terms) or 1)
    figures = [figure for figure in claim.units if not any(_held(figure, claim, window) for window in windows)]
    return {
        "told": _log(claim.content & known - asked),
        "repeated": _log(claim.content & known & asked),
        "asked": _log(claim.content & asked - known),
        "new": _log(new),
        "told_names": _log(names & known - asked),
        "new_names": _log(names & new),
        "new_figures": _log(figures),
        "coverage": nearest[0],
        "full": max(0.0, nearest[0] - _FULL),
        "words": share,
        "all_words": max(0.0, share - _FULL),
        "negation": float(nearest[0] >= SAME_SUBJECT and claim.negated != best.negated),
    }


def embedding(claim: Sequence[float], windows: Sequence[Sequence[float]], question: Sequence[float]) -> list[float]:
    """Returns the cosines of a claim with each window, and last with the question; vectors of length 0 give 0."""
    return [_cosine(claim, other) for other in (*windows, question)]


def likelihood(with_passages: Sequence[float], without: Sequence[float]) -> dict[str, float]:
    """Returns the readings of a sentence's tokens, from their logprobs with and without the passages."""
    if not with_passages:
        return {"gain": 0.0, "lost": 0.0, "guessed": 0.0}
    pairs = [(max(a, _UNLIKELY), max(b, _UNLIKELY)) for a, b in zip(with_passages, without, strict=True)]
    return {
        "gain": sum(a - b for a, b in pairs) / len(pairs),
        "lost": math.log1p(sum(max(0.0, b - a) for a, b in pairs)),
        "guessed": sum(b for _, b in pairs) / len(pairs),
    }


def by_sentence(answer: str, claims: Sequence[Sentence], tokens: Sequence[TokenLikelihood]) -> list[list[float]]:
    """Returns the logprobs of each claim's tokens; a token belongs to the last claim that begins before its end.

    A token whose text is not found where it should stand (part of a character) is counted where the last one ended.
    """
    found: list[list[float]] = [[] for _ in claims]
    at = 0
    for token in tokens:
        text = token.text.replace("\ufffd", "")
        place = answer.find(text, at, at + len(text) + 8) if text else -1
        at = place + len(text) if place >= 0 else at
        owner = max((n for n, claim in enumerate(claims) if claim.start < at), default=0)
        found[owner].append(token.logprob)
    return found


def finite(readings: Mapping[str, float]) -> bool:
    """Tells whether all readings are numbers."""
    return all(math.isfinite(value) for value in readings.values())


def _held(figure: str, claim: Sentence, window: Window) -> bool:
    return holds(figure, claim, window.sentence, window.about)


def _log(found: frozenset[str] | list[str]) -> float:
    return math.log1p(len(found))


def _cosine(one: Sequence[float], two: Sequence[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in one) * sum(b * b for b in two))
    return sum(a * b for a, b in zip(one, two, strict=True)) / lengths if lengths else 0.0
