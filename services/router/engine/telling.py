"""What the caller is told while an answer is made: decisions, and the text that stands since the last one."""

from services.router.domain import Cited, DecisionStep, Delta, Draft, Emit, Event, Route, Sources, StepKind

_DISCARDING = (StepKind.ESCALATE, StepKind.FALL_BACK, StepKind.ABSTAIN)
_TAKING = (StepKind.ESCALATE, StepKind.FALL_BACK)


class Voice:
    """Carries the events of one draft to the caller, or holds them back until a decision for its path."""

    def __init__(self, emit: Emit, *, held: bool) -> None:
        self._emit = emit
        self._held: list[Event] | None = [] if held else None

    async def say(self, event: Event) -> None:
        """Tells an event now or later."""
        if self._held is None:
            await self._emit(event)
        elif isinstance(event, Delta) and self._held and isinstance(last := self._held[-1], Delta):
            self._held[-1] = Delta(last.text + event.text)
        else:
            self._held.append(event)

    async def release(self) -> None:
        """Tells what was held back, in order, and holds nothing back from then on."""
        while self._held:
            await self._emit(self._held.pop(0))
        self._held = None


class Telling:
    """Keeps the decisions of one answer and what the caller has heard since the last one that discards."""

    def __init__(self, emit: Emit) -> None:
        self.steps: list[DecisionStep] = []
        self._emit = emit
        self._voices: dict[Route, Voice] = {}
        self.taken: Route | None = None
        """The path that the last decision gave the question to."""
        self._standing = ""
        self._cited = False

    def voice(self, route: Route, *, held: bool) -> Voice:
        """Returns the voice of a draft that begins now."""
        voice = Voice(self._tell, held=held)
        self._voices[route] = voice
        return voice

    async def decided(self, step: DecisionStep) -> None:
        """Tells a decision; what the path decided for has held back follows it, or comes before it is accepted."""
        self.steps.append(step)
        if step.kind is StepKind.ACCEPT:
            await self._release(step.route)
        if step.kind in _DISCARDING:
            self._standing, self._cited = "", False
        await self._emit(step)
        if step.kind in _TAKING:
            self.taken = step.route
            await self._release(step.route)

    async def show(self, draft: Draft, *, sources: bool = False) -> None:
        """Tells what the caller has not heard yet of a whole draft."""
        if sources and draft.passages:
            await self._tell(Sources(draft.passages))
        if self._standing.strip() != draft.text:
            await self._tell(Delta(draft.text))
        if draft.groundedness is not None and not self._cited:
            await self._tell(Cited(draft.citations, draft.groundedness))

    async def _release(self, route: Route) -> None:
        voice = self._voices.get(route)
        if voice is not None:
            await voice.release()

    async def _tell(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._standing += event.text
        self._cited = self._cited or isinstance(event, Cited)
        await self._emit(event)
