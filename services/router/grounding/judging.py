"""Judges an answer sentence by sentence, by words and by what the peers of the depth say in time.

A sentence's support is the part that says it word for word (lexical.tied); else the part nearest by words where those
tell it from the others, else the one nearest by meaning.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.router.domain import Citation, Passage, Span
from services.router.domain.domains import Depth
from services.router.domain.grounding import (
    AbsentSignal,
    Groundedness,
    GroundedSentence,
    GroundingStatus,
    LikelihoodScorer,
    PairClassifier,
    Signal,
    TextEmbedder,
)
from services.router.grounding import asking, lexical, reading
from services.router.grounding.case import Case, case_of
from services.router.grounding.combining import SUPPORTED, Weights, answer_groundedness, committed
from services.router.grounding.windows import citation_of

CALLS: Mapping[Depth, int] = {Depth.WORDS: 0, Depth.VECTORS: 1, Depth.LIKELIHOOD: 2, Depth.ENTAILMENT: 3}
"""Most calls of peers that a depth makes; entailment makes one where the classifier answers."""
ENTAILMENT_SHARE = 0.5
"""Share of the time for the classifier, so that the others have some left where it is late."""


@dataclass(frozen=True)
class _Judgement:
    """Is what is found of each claim, in order: its groundedness, the place of its support, what was read."""

    values: Sequence[float]
    places: Sequence[int]
    readings: Sequence[Mapping[str, float]]
    used: Sequence[Signal]
    version: str


class SentenceGrounding:
    """Implements services.router.domain.Grounding; deterministic where its peers are."""

    def __init__(
        self,
        *,
        embedder: TextEmbedder,
        scorer: LikelihoodScorer,
        classifier: PairClassifier,
        weights: Weights | None = None,
    ) -> None:
        self._embedder = embedder
        self._scorer = scorer
        self._classifier = classifier
        self._weights = weights or committed()

    def calls(self, depth: Depth) -> int:
        """Returns the most calls of peers that grounding an answer takes."""
        return CALLS[depth]

    def extract(self, question: str, passage: Passage) -> tuple[str, Citation]:
        """Returns the part of the passage nearest to the question, and its citation."""
        return lexical.extract(question, passage)

    async def ground(
        self, question: str, answer: str, passages: Sequence[Passage], *, depth: Depth, timeout_s: float
    ) -> Groundedness:
        """Returns how far the passages support the answer; never raises for a peer that fails or is late."""
        until = time.monotonic() + timeout_s
        case = case_of(question, answer, passages)
        if not case.claims:
            return Groundedness(status=GroundingStatus.NOTHING_SAID)
        if not case.windows:
            return Groundedness(status=GroundingStatus.NO_PASSAGES)
        absent: list[AbsentSignal] = []
        if depth is Depth.ENTAILMENT:
            limit_s = timeout_s * ENTAILMENT_SHARE
            work = asking.entailment(self._classifier, case, timeout_s=limit_s)
            found = await asking.attempt(Signal.ENTAILMENT, work, timeout_s=limit_s)
            if not isinstance(found, AbsentSignal):
                return _told(case, _entailed(*found), absent)
            absent.append(found)
        return _told(case, await self._combined(case, depth, absent, max(0.0, until - time.monotonic())), absent)

    async def _combined(self, case: Case, depth: Depth, absent: list[AbsentSignal], limit_s: float) -> _Judgement:
        readings = reading.lexical(case)
        places = [row[0][1] for row in case.nearest]
        used = [Signal.LEXICAL]
        work = {}
        if depth is not Depth.WORDS:
            work[Signal.EMBEDDING] = asking.vectors(self._embedder, case, timeout_s=limit_s)
        if depth in (Depth.LIKELIHOOD, Depth.ENTAILMENT):
            work[Signal.LIKELIHOOD] = asking.likelihoods(self._scorer, case, timeout_s=limit_s)
        told = await asyncio.gather(*(asking.attempt(name, one, timeout_s=limit_s) for name, one in work.items()))
        for signal, found in zip(work, told, strict=True):
            if isinstance(found, AbsentSignal):
                absent.append(found)
                continue
            used.append(signal)
            for one, (more, _) in zip(readings, found, strict=True):
                one.update(more)
            if signal is Signal.EMBEDDING:
                places = [
                    place if row[0][0] >= reading.SAME_SUBJECT else near
                    for place, row, (_, near) in zip(places, case.nearest, found, strict=True)
                ]
        combination = self._weights.of(used)
        return _Judgement(
            values=[combination.sentence(one) for one in readings],
            places=[place if said is None else said for place, said in zip(places, case.tied, strict=True)],
            readings=readings,
            used=used,
            version=self._weights.version,
        )


def _entailed(best: Sequence[tuple[float, int]], version: str) -> _Judgement:
    values, places = zip(*best, strict=True)
    return _Judgement(values, places, [{"entailment": value} for value in values], (Signal.ENTAILMENT,), version)


def _told(case: Case, judged: _Judgement, absent: Sequence[AbsentSignal]) -> Groundedness:
    rows = zip(case.claims, judged.values, judged.places, judged.readings, strict=True)
    sentences = []
    for claim, value, place, read in rows:
        span, window = Span(claim.start, claim.end), case.windows[place]
        is_supported = value >= SUPPORTED or read.get("tied", 0.0) > 0
        support = citation_of(span, window.passage, window.span) if is_supported else None
        sentences.append(GroundedSentence(answer_span=span, groundedness=value, support=support, signals=read))
    counted = zip(judged.values, case.claims, strict=True)
    return Groundedness(
        status=GroundingStatus.PARTIAL if absent else GroundingStatus.MEASURED,
        value=answer_groundedness([(value, len(claim.content)) for value, claim in counted]),
        sentences=tuple(sentences),
        rests_on=tuple(judged.used),
        absent=tuple(absent),
        version=judged.version,
    )
