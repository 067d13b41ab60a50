"""Paths that give what a test scripts, for tests of policies."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.router.domain import (
    BUDGET,
    Citation,
    Confidence,
    DecisionStep,
    Domain,
    Draft,
    PartDown,
    Passage,
    QueryVector,
    Route,
    Span,
    StepKind,
)
from services.router.domain.calibration import Calibrated, ScopeReading
from services.router.domain.grounding import Groundedness, GroundingStatus
from tests.fakes.router import DOMAIN, PASSAGES, lineage_of

T = TypeVar("T")
CITATIONS = (
    Citation(
        answer_span=Span(0, 4),
        document_id=PASSAGES[0].document_id,
        chunk_id=PASSAGES[0].chunk_id,
        title=PASSAGES[0].title,
        document_span=PASSAGES[0].span,
        quote=PASSAGES[0].text,
    ),
)
INSIDE = ScopeReading(0.1, True, "distance 0.100 <= scope 0.300", 0.3)
OUTSIDE = ScopeReading(0.9, False, "distance 0.900 > scope 0.300", 0.3)
NO_SCOPE = ScopeReading(None, None, "the domain has no calibration")


def weights(confidence: float = 0.9, text: str = "weights") -> Draft:
    """Returns a draft of the adapter's."""
    return Draft(route=Route.FINETUNED, text=text, confidence=Confidence(confidence), lineage=lineage_of("answers"))


def reading(groundedness: float = 0.9, text: str = "read", route: Route = Route.RAG) -> Draft:
    """Returns a draft that was read from passages."""
    return Draft(
        route=route,
        text=text,
        confidence=Confidence(0.8),
        lineage=lineage_of("reading"),
        passages=PASSAGES,
        citations=CITATIONS,
        groundedness=Groundedness(status=GroundingStatus.MEASURED, value=groundedness),
    )


def silent(draft: Draft) -> Draft:
    """Returns a draft whose model said that it has no answer."""
    return replace(draft, text="nothing", abstained=True, citations=(), groundedness=None)


@dataclass
class FakePaths:
    """Implements Paths: each path gives its draft or raises, some after `waits` for an event by the path's name."""

    adapter: Draft | Exception = field(default_factory=weights)
    vector: QueryVector | Exception = field(default_factory=lambda: QueryVector((1.0,)))
    passages: tuple[Passage, ...] | Exception = PASSAGES
    reading: Draft | Exception = field(default_factory=reading)
    blended: Draft | Exception = field(default_factory=lambda: reading(text="both", route=Route.ENSEMBLE))
    place: ScopeReading | Exception = NO_SCOPE
    own_weight: float = 0.5
    domain: Domain = DOMAIN
    max_calls: int | None = None
    waits: dict[str, asyncio.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    steps: list[DecisionStep] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    embedded: bool = False

    def room(self, *, calls: int) -> bool:
        """Tells whether max_calls has room."""
        return self.max_calls is None or self._taken() + calls <= self.max_calls

    async def finetuned(self, *, share: float, tentative: bool, held: bool = False) -> Draft:
        """Gives the adapter's draft."""
        return await self._give("finetuned", self.adapter)

    async def embed(self) -> QueryVector:
        """Gives the vector."""
        if self.embedded and not isinstance(self.vector, Exception):
            return self.vector
        self.embedded = True
        return await self._give("embed", self.vector)

    async def scope(self) -> ScopeReading:
        """Gives where the question lies, embedding it where that is known."""
        if isinstance(self.place, ScopeReading) and self.place.distance is not None:
            await self.embed()
        return await self._give("scope", self.place, calls=0)

    def judge(self, draft: Draft) -> Calibrated:
        """Compares the draft's confidence with the domain's threshold."""
        value = 0.0 if draft.confidence is None else draft.confidence.value
        sign = ">=" if value >= self.domain.threshold else "<"
        reason = f"confidence {value:.3f} (uncalibrated) {sign} threshold {self.domain.threshold:.3f}"
        accepted = value >= self.domain.threshold and not draft.abstained
        return Calibrated(confidence=value, accepted=accepted, reason=reason, version="")

    async def search(self, vector: QueryVector | None) -> tuple[Passage, ...]:
        """Gives the passages."""
        return await self._give("search" if vector is not None else "search by words", self.passages)

    async def read(self, passages: Sequence[Passage], *, tentative: bool = False) -> Draft:
        """Gives the reading."""
        return await self._give("read", self.reading)

    def weight(self, passages: Sequence[Passage]) -> float:
        """Gives the weight."""
        return self.own_weight

    async def blend(self, passages: Sequence[Passage], *, weight: float) -> Draft:
        """Gives the blended draft."""
        return await self._give("blend", self.blended, calls=2)

    async def support(self, draft: Draft, passages: Sequence[Passage]) -> Draft:
        """Ties the draft to the passages."""
        self.calls.append("support")
        return replace(draft, citations=CITATIONS)

    async def quote(self, passages: Sequence[Passage]) -> Draft:
        """Gives the best passage."""
        return await self._give("quote", Draft(route=Route.RAG, text=passages[0].text, passages=passages[:1]), calls=0)

    async def show(self, draft: Draft) -> None:
        """Notes that the draft was sent."""
        self.calls.append(f"show {draft.route}")

    async def step(self, kind: StepKind, route: Route, reason: str) -> None:
        """Keeps the step."""
        self.steps.append(DecisionStep(kind, route, reason))

    def degrade(self, component: str, effect: str) -> None:
        """Keeps the component."""
        self.degraded.append(component)

    async def reached(self, call: str) -> None:
        """Returns once a path was taken; raises TimeoutError where it is not taken soon."""
        for _ in range(100):
            if call in self.calls:
                return
            await asyncio.sleep(0)
        raise TimeoutError(call)

    def kinds(self) -> list[str]:
        """Returns the decisions so far as "kind:route"."""
        return [f"{step.kind}:{step.route}" for step in self.steps]

    def _taken(self) -> int:
        prices = {"blend": 2, "embed": 1, "finetuned": 1, "read": 1, "search": 1, "search by words": 1}
        return sum(prices.get(call, 0) for call in self.calls)

    async def _give(self, call: str, result: T | Exception, *, calls: int = 1) -> T:
        if not self.room(calls=calls):
            raise PartDown(BUDGET, f"no room for {calls} more")
        self.calls.append(call)
        if call in self.waits:
            try:
                await self.waits[call].wait()
            except asyncio.CancelledError:
                self.cancelled.append(call)
                raise
        if isinstance(result, Exception):
            raise result
        return result
