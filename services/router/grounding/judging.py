"""Judges an answer sentence by sentence, by words and by whatever else is configured and answers in time.

The work is bounded: at most MAX_SENTENCES sentences (what follows belongs to the last), MAX_WINDOWS parts of passages,
one Embed of at most MAX_TEXTS texts and one Score of two items for an answer, both at once; or, where a classifier of
entailment is configured, one ClassifyPairs of at most MAX_PAIRS pairs instead of the combination.
"""

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from services.router.domain import Citation, Passage, Span
from services.router.domain.grounding import (
    AbsentSignal,
    Continuation,
    Groundedness,
    GroundedSentence,
    GroundingStatus,
    LikelihoodScorer,
    PairClassifier,
    Signal,
    TextEmbedder,
    TokenLikelihood,
)
from services.router.grounding import reading
from services.router.grounding.combining import SUPPORTED, Weights, answer_groundedness, committed
from services.router.grounding.lexical import citation_of
from services.router.grounding.text import Sentence, claims
from services.router.grounding.windows import Window, ranked, windows_of
from tandem import prompts
from tandem.errors import TandemError

MAX_SENTENCES = 32
MAX_TEXTS = 64
"""Most texts embedded for an answer: its sentences, the question, and the parts nearest by words."""
MAX_PAIRS = 64
ENTAILS = ("entailment", "entails", "consistent", "supported", "score")
"""Labels that a classifier may call support, whatever their case; the first that it has is taken."""
T = TypeVar("T")


class _Unusable(Exception):
    """Says that a peer answered something that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Is what is judged: the claims, the windows, and the windows nearest to each claim by words, best first."""

    question: str
    answer: str
    passages: Sequence[Passage]
    claims: Sequence[Sentence]
    windows: Sequence[Window]
    nearest: Sequence[Sequence[tuple[float, int]]]

    def text(self, claim: Sentence) -> str:
        return self.answer[claim.start : claim.end]

    def shortlist(self, most: int) -> list[int]:
        """Returns the places of at most so many windows: the best of each claim in turn, then the second best, ..."""
        turns = (row[rank][1] for rank in range(len(self.windows)) for row in self.nearest)
        return sorted(list(dict.fromkeys(turns))[: max(1, most)])


class SentenceGrounding:
    """Gives each sentence of an answer its groundedness and the part of a document that supports it."""

    def __init__(
        self,
        *,
        embedder: TextEmbedder | None = None,
        scorer: LikelihoodScorer | None = None,
        classifier: PairClassifier | None = None,
        weights: Weights | None = None,
    ) -> None:
        self._embedder = embedder
        self._scorer = scorer
        self._classifier = classifier
        self._weights = weights or committed()

    async def ground(
        self, question: str, answer: str, passages: Sequence[Passage], *, timeout_s: float
    ) -> Groundedness:
        """Returns how far the passages support the answer; never raises for a peer that fails or is late."""
        windows = windows_of(passages)
        said = _bounded(claims(answer))
        if not said:
            return Groundedness(status=GroundingStatus.NOTHING_SAID)
        if not windows:
            return Groundedness(status=GroundingStatus.NO_PASSAGES)
        nearest = [ranked(claim, windows) for claim in said]
        case = _Case(question=question, answer=answer, passages=passages, claims=said, windows=windows, nearest=nearest)
        absent: list[AbsentSignal] = []
        if self._classifier is not None:
            judged = await _try(Signal.ENTAILMENT, self._entailment(self._classifier, case, timeout_s), timeout_s)
            if not isinstance(judged, AbsentSignal):
                return judged
            absent.append(judged)
        return await self._combined(case, absent, timeout_s)

    async def _combined(self, case: _Case, absent: list[AbsentSignal], timeout_s: float) -> Groundedness:
        known, asked = reading.known_words(case.windows), reading.asked_words(case.question)
        readings = [
            reading.lexical(case.answer, claim, case.windows, known=known, asked=asked, nearest=row[0])
            for claim, row in zip(case.claims, case.nearest, strict=True)
        ]
        places = [row[0][1] for row in case.nearest]
        used = [Signal.LEXICAL]
        embedded, scored = await asyncio.gather(self._near(case, timeout_s), self._likely(case, timeout_s))
        for signal, found in ((Signal.EMBEDDING, embedded), (Signal.LIKELIHOOD, scored)):
            if isinstance(found, AbsentSignal):
                absent.append(found)
            elif found is not None:
                used.append(signal)
                for one, more in zip(readings, found, strict=True):
                    one.update(more[0])
        if isinstance(embedded, list):
            # By words where they tell a part from the others, by meaning where they do not.
            places = [
                place if row[0][0] >= reading.SAME_SUBJECT else more[1]
                for place, row, more in zip(places, case.nearest, embedded, strict=True)
            ]
        combination = self._weights.of(used)
        values = [combination.sentence(one) for one in readings]
        return _told(case, values, places, readings, used=used, absent=absent, version=self._weights.version)

    async def _near(self, case: _Case, timeout_s: float) -> list[tuple[dict[str, float], int]] | AbsentSignal | None:
        if self._embedder is None:
            return None
        places = case.shortlist(MAX_TEXTS - 1 - len(case.claims))
        texts = [*map(case.text, case.claims), *(case.windows[place].text for place in places), case.question or " "]
        asked = self._embedder.embed_texts(texts, timeout_s=timeout_s)
        return await _try(Signal.EMBEDDING, _read_vectors(asked, len(case.claims), places), timeout_s)

    async def _likely(self, case: _Case, timeout_s: float) -> list[tuple[dict[str, float], int]] | AbsentSignal | None:
        if self._scorer is None:
            return None
        shown = [prompts.passage(passage.title, passage.text) for passage in case.passages]
        items = [Continuation(prompts.reading(case.question, read), case.answer) for read in (shown, [])]
        return await _try(
            Signal.LIKELIHOOD, _read_tokens(self._scorer.score(items, timeout_s=timeout_s), case), timeout_s
        )

    async def _entailment(self, classifier: PairClassifier, case: _Case, timeout_s: float) -> Groundedness:
        each = max(1, MAX_PAIRS // len(case.claims))
        tried = [(claim, place) for claim, row in enumerate(case.nearest) for _, place in row[:each]]
        pairs = [(case.windows[place].text, case.text(case.claims[claim])) for claim, place in tried]
        found = await classifier.classify_pairs(pairs, timeout_s=timeout_s)
        labels = [label.lower() for label in found.labels]
        column = next((labels.index(name) for name in ENTAILS if name in labels), None)
        if column is None or len(found.probabilities) != len(pairs):
            raise _Unusable("the classifier has no label of support, or answered another number of pairs")
        best: list[tuple[float, int]] = [(-1.0, 0)] * len(case.claims)
        for (claim, place), row in zip(tried, found.probabilities, strict=True):
            value = float(row[column])
            if not 0 <= value <= 1:
                raise _Unusable("the classifier's figures are no probabilities")
            if value > best[claim][0]:
                best[claim] = (value, place)
        return _told(
            case,
            [value for value, _ in best],
            [place for _, place in best],
            [{"entailment": value} for value, _ in best],
            used=[Signal.ENTAILMENT],
            absent=[],
            version=found.model_sha256,
        )


def _told(
    case: _Case,
    values: Sequence[float],
    places: Sequence[int],
    readings: Sequence[dict[str, float]],
    *,
    used: Sequence[Signal],
    absent: Sequence[AbsentSignal],
    version: str,
) -> Groundedness:
    sentences = tuple(
        GroundedSentence(
            answer_span=Span(claim.start, claim.end),
            groundedness=value,
            support=_support(claim, case.windows[place]) if value >= SUPPORTED else None,
            signals=read,
        )
        for claim, value, place, read in zip(case.claims, values, places, readings, strict=True)
    )
    return Groundedness(
        status=GroundingStatus.PARTIAL if absent else GroundingStatus.MEASURED,
        value=answer_groundedness([(v, len(c.content)) for v, c in zip(values, case.claims, strict=True)]),
        sentences=sentences,
        rests_on=tuple(used),
        absent=tuple(absent),
        version=version,
    )


def _support(claim: Sentence, window: Window) -> Citation:
    return citation_of(Span(claim.start, claim.end), window.passage, window.span)


def _bounded(said: list[Sentence]) -> list[Sentence]:
    if len(said) <= MAX_SENTENCES:
        return said
    rest = said[MAX_SENTENCES - 1 :]
    last = replace(
        rest[0],
        end=rest[-1].end,
        terms=tuple(term for one in rest for term in one.terms),
        content=frozenset().union(*(one.content for one in rest)),
        units={figure: units for one in rest for figure, units in one.units.items()},
        negated=any(one.negated for one in rest),
    )
    return [*said[: MAX_SENTENCES - 1], last]


async def _try(signal: Signal, work: Awaitable[T], timeout_s: float) -> T | AbsentSignal:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        return AbsentSignal(signal, f"no answer within {timeout_s:.3g} s")
    except TandemError as error:
        return AbsentSignal(signal, f"{error.code} {error.reason}")
    except _Unusable as error:
        return AbsentSignal(signal, str(error))


async def _read_vectors(
    asked: Awaitable[Sequence[Sequence[float]]], num_claims: int, places: Sequence[int]
) -> list[tuple[dict[str, float], int]]:
    vectors = await asked
    if len(vectors) != num_claims + len(places) + 1 or len({len(vector) for vector in vectors}) != 1:
        raise _Unusable("the embedder answered another number of vectors, or vectors of several lengths")
    found = []
    for claim in vectors[:num_claims]:
        *near, echo = reading.embedding(claim, vectors[num_claims:-1], vectors[-1])
        best = max(range(len(places)), key=lambda at: (near[at], -at))
        found.append(({"near": near[best], "echo": echo}, places[best]))
    return _finite(found)


async def _read_tokens(
    asked: Awaitable[Sequence[Sequence[TokenLikelihood]]], case: _Case
) -> list[tuple[dict[str, float], int]]:
    both = await asked
    if len(both) != 2 or len(both[0]) != len(both[1]) or not both[0]:
        raise _Unusable("the two prompts were not scored by the same tokens")
    if not all(math.isfinite(token.logprob) for tokens in both for token in tokens):
        raise _Unusable("a likelihood is no number")
    read, guessed = (reading.by_sentence(case.answer, case.claims, tokens) for tokens in both)
    return _finite([(reading.likelihood(a, b), 0) for a, b in zip(read, guessed, strict=True)])


def _finite(found: list[tuple[dict[str, float], int]]) -> list[tuple[dict[str, float], int]]:
    if not all(reading.finite(readings) for readings, _ in found):
        raise _Unusable("a figure is no number")
    return found
