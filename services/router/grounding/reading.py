"""What words, figures, names, vectors and likelihoods say of a sentence's support, each as a number with a name.

| reading | what it is |
|---|---|
| `told`, `repeated`, `asked`, `new` | log(1 + count) of the content words that stand in the passages alone, in passages and question, in the question alone, in neither |
| `told_names`, `new_names` | the same of capitalised words: in the passages alone, in neither |
| `new_figures` | the same of figures that neither the passages nor the question hold |
| `moved_figures` | the same of figures that they hold of something else: with another unit, or, in a claim of a few words, where no part says it |
| `full` | what is above 0.8 of the share of content words that the nearest part of a passage holds |
| `words`, `all_words` | share of all words that stand anywhere in the passages; what of it is above 0.8 |
| `all_overlap` | the same of words as they are spelled, repeated ones each time |
| `tied` | 1 where a part says the sentence, see lexical.py |
| `negation` | 1 where no part says it, and all that are near speak of the same and differ from it in negation |
| `near`, `echo` | cosine of the sentence with the nearest part, with the question |
| `gain`, `lost`, `guessed` | in nats: mean gain of the tokens' logprob by the passages; log(1 + sum of what tokens lose by them); mean logprob without passages |
"""  # noqa: E501

import math
import re
from collections.abc import Mapping, Sequence

from services.router.domain import Passage
from services.router.domain.grounding import TokenLikelihood
from services.router.grounding.case import Case
from services.router.grounding.lexical import SHORT, holds
from services.router.grounding.text import Sentence, names_of

SAME_SUBJECT = 0.6
"""Least coverage of a part whose negation is compared: of another subject it tells nothing."""
CLOSE = 0.1
SPELLED = re.compile(r"\w+")
_FULL = 0.8
_UNLIKELY = -30.0
"""Least logprob that counts: beyond it one token would outweigh a sentence."""


def lexical(case: Case) -> list[dict[str, float]]:
    """Returns the readings of each claim by words alone; the case has windows."""
    known = frozenset().union(*(window.content | window.about for window in case.windows))
    words = frozenset().union(*(window.terms for window in case.windows)) | known
    spelled = frozenset(SPELLED.findall(" ".join(_shown(passage) for passage in case.passages).lower()))
    return [_of_words(case, at, known=known, words=words, spelled=spelled) for at in range(len(case.claims))]


def _of_words(
    case: Case, at: int, *, known: frozenset[str], words: frozenset[str], spelled: frozenset[str]
) -> dict[str, float]:
    claim, asked, nearest = case.claims[at], case.asked, case.nearest[at][0]
    names = names_of(case.text(claim)) & claim.content
    new = claim.content - known - asked
    share = sum(term in words for term in claim.terms) / (len(claim.terms) or 1)
    figures = [figure for figure in claim.units if not any(holds(figure, claim, window) for window in case.windows)]
    anywhere = known | {figure for window in case.windows for figure in window.sentence.units}
    is_tied = case.tied[at] is not None
    astray = claim.units if len(claim.content) <= SHORT and not is_tied else figures
    said = SPELLED.findall(case.text(claim).lower())
    overlap = sum(word in spelled for word in said) / (len(said) or 1)
    return {
        "told": _log(claim.content & known - asked),
        "repeated": _log(claim.content & known & asked),
        "asked": _log(claim.content & asked - known),
        "new": _log(new),
        "told_names": _log(names & known - asked),
        "new_names": _log(names & new),
        "new_figures": _log([figure for figure in figures if figure not in anywhere | asked]),
        "moved_figures": _log([figure for figure in astray if figure in anywhere]),
        "full": max(0.0, nearest[0] - _FULL),
        "words": share,
        "all_words": max(0.0, share - _FULL),
        "all_overlap": max(0.0, overlap - _FULL),
        "tied": float(is_tied),
        "negation": float(not is_tied and _denied(case, at)),
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


def _denied(case: Case, at: int) -> bool:
    """Tells whether the sentences nearest to a claim are of its subject and all negated where it is not, or else."""
    singles = [
        (share, case.windows[place].sentence.negated)
        for share, place in case.nearest[at]
        if not case.windows[place].sentence.is_pair
    ]
    near = [negated for share, negated in singles if share >= max(SAME_SUBJECT, singles[0][0] - CLOSE)]
    return bool(near) and case.claims[at].negated not in near


def _shown(passage: Passage) -> str:
    return " ".join((passage.title, *passage.headings, passage.text))


def _log(found: frozenset[str] | list[str]) -> float:
    return math.log1p(len(found))


def _cosine(one: Sequence[float], two: Sequence[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in one) * sum(b * b for b in two))
    return sum(a * b for a, b in zip(one, two, strict=True)) / lengths if lengths else 0.0
