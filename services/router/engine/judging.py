"""What is known of a question and a draft, and what a domain's calibration makes of it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from services.router.calibration import Calibration, Scope, own_weight
from services.router.domain import Confidence, Domain, Draft, Lineage, Passage, QueryVector, Route
from services.router.domain.calibration import Artefact, Blend, Calibrated, Features, ScopeReading
from tandem.scoring import f1

GUESSED_BLEND = Blend(own_prior=0.5, evidence_intercept=-2.0, evidence_slope=4.0)
"""Weighs a blend where nothing was fitted: the adapter is right half of the time, passages at a cosine of 0.5 are."""
EVEN = 0.5
"""Share of each prompt where the passages were found by words alone, so that no score tells how near they are."""
_NO_LINEAGE = Lineage("", "")
_MAX_HELD = 64


class Judges:
    """Holds what artefacts are applied by, the least recently used going first."""

    def __init__(self, *, max_held: int = _MAX_HELD) -> None:
        self._max_held = max_held
        self._held: OrderedDict[str, tuple[Calibration, Scope | None]] = OrderedDict()

    def calibration(self, artefact: Artefact) -> Calibration:
        """Returns what calibrates drafts."""
        return self._of(artefact)[0]

    def scope(self, artefact: Artefact) -> Scope | None:
        """Returns what measures questions, None where the artefact has no scope."""
        return self._of(artefact)[1]

    def _of(self, artefact: Artefact) -> tuple[Calibration, Scope | None]:
        held = self._held.get(artefact.version)
        if held is None:
            scope = None if artefact.scope is None else Scope(artefact.scope)
            held = self._held[artefact.version] = (Calibration(artefact), scope)
            while len(self._held) > self._max_held:
                self._held.popitem(last=False)
        self._held.move_to_end(artefact.version)
        return held


class Knowledge:
    """Gathers what becomes known of one question on its way, and judges drafts by it."""

    def __init__(self, domain: Domain, judges: Judges) -> None:
        self._domain = domain
        self._judges = judges
        self._passages: Sequence[Passage] = ()
        self._texts: dict[Route, str] = {}
        self.scope: ScopeReading | None = None
        """Where the question lies; None until it was embedded, and where the domain has no scope."""

    @property
    def has_scope(self) -> bool:
        """Tells whether the domain's calibration can say where a question lies."""
        return self._domain.artefact is not None and self._domain.artefact.scope is not None

    def embedded(self, vector: QueryVector) -> None:
        """Takes the question's embedding."""
        artefact = self._domain.artefact
        scope = None if artefact is None else self._judges.scope(artefact)
        if scope is not None:
            self.scope = scope.of(vector)

    def found(self, passages: Sequence[Passage]) -> None:
        """Takes what a search returned."""
        self._passages = passages

    def wrote(self, draft: Draft) -> None:
        """Takes a path's whole draft."""
        if not draft.abstained:
            self._texts[draft.route] = draft.text

    def features(self, draft: Draft) -> Features:
        """Returns the draft's own signals with all that is known besides."""
        scores = self._scores()
        return replace(
            draft.signals,
            abstained=draft.abstained,
            scope_distance=None if self.scope is None else self.scope.distance,
            top_score=scores[0] if scores else None,
            score_gap=scores[0] - scores[1] if len(scores) > 1 else None,
            agreement=self._agreement(),
        )

    def judge(self, draft: Draft) -> Calibrated:
        """Returns how sure a draft is, by the domain's calibration or by the mean token probability."""
        if self._domain.artefact is None:
            return uncalibrated(draft, self._domain.threshold)
        calibration = self._judges.calibration(self._domain.artefact)
        return calibration.of(self.features(draft), draft.lineage or _NO_LINEAGE)

    def weight(self, passages: Sequence[Passage]) -> float:
        """Returns the fine-tuned prompt's share of a blend, 0 to 1 (services/router/calibration/weight.py)."""
        artefact, scores = self._domain.artefact, self._scores()
        if passages and not scores:
            return EVEN
        return own_weight(
            artefact.blend if artefact is not None and artefact.blend is not None else GUESSED_BLEND,
            confidence=None,
            scope=None if artefact is None else artefact.scope,
            scope_distance=None if self.scope is None else self.scope.distance,
            top_score=scores[0] if scores else None,
        )

    def _scores(self) -> list[float]:
        """Returns the passages' cosines to the question, the greatest first."""
        scores = [one.dense_score for one in self._passages if one.dense_score is not None]
        return sorted(scores, reverse=True)

    def _agreement(self) -> float | None:
        own, read = self._texts.get(Route.FINETUNED), self._texts.get(Route.RAG)
        return None if own is None or read is None else f1(own, [read])


def uncalibrated(draft: Draft, threshold: float) -> Calibrated:
    """Returns what the geometric mean of the token probabilities says against a threshold."""
    if draft.abstained:
        return Calibrated(confidence=None, accepted=False, reason="the adapter gave no answer", version="")
    value = 0.0 if draft.confidence is None else draft.confidence.value
    accepted = value >= threshold
    reason = f"confidence {value:.3f} (uncalibrated) {'>=' if accepted else '<'} threshold {threshold:.3f}"
    return Calibrated(confidence=value, accepted=accepted, reason=reason, version="")


def mean_probability(mean_logprob: float) -> Confidence:
    """Returns the geometric mean of the tokens' probabilities, 0 to 1; a mean that is not a number counts as 0."""
    return Confidence(0.0 if math.isnan(mean_logprob) else math.exp(min(0.0, mean_logprob)))
