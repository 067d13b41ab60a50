"""dual: adapter and passages at the same time; evidence answers what lies outside the adapter's scope."""

import asyncio
from dataclasses import dataclass

from services.router.domain import BUDGET, Draft, NoAdapter, PartDown, Passage, Paths, Route, StepKind
from services.router.domain.calibration import ScopeReading
from services.router.policies.cascade import Cascade, keep
from services.router.policies.evidence import NOTHING, NOTHING_FOUND, Found, by_words, find, quote, settle
from services.router.policies.finetuned import Judged, judged
from tandem.tasks import Together, ended

_SHARE = 0.8
"""How much of the time left the adapter may take, so that something is left for what was read meanwhile."""


@dataclass(frozen=True)
class _Race:
    """Holds the work that runs at the same time; reading gives None where nothing was found."""

    adapter: asyncio.Task[Draft]
    found: asyncio.Task[Found]
    reading: asyncio.Task[Draft | None]


@dataclass(frozen=True)
class _Handed:
    """Is why the question goes to the evidence, and the adapter's draft where that may still be given."""

    kind: StepKind
    reason: str
    kept: Judged | None = None


class Dual:
    """Lets both paths run; the adapter's draft counts inside its scope and when sure enough, else evidence does."""

    name = "dual"
    description = "The answer adapter answers while passages are read; evidence counts outside the adapter's scope."

    def __init__(self) -> None:
        self._in_turn = Cascade()

    async def decide(self, paths: Paths) -> Draft:
        """Returns the draft of the path that counts, the other cancelled; raises PartDown where none is left."""
        if not paths.room(calls=3):
            paths.degrade(BUDGET, "the two paths were tried one after the other")
            return await self._in_turn.decide(paths)
        await paths.step(StepKind.CHOOSE, Route.FINETUNED, "the adapter answers while passages are read")
        embed = paths.room(calls=4)
        async with Together() as together:
            located = together.start(_locate(paths, embed=embed))
            adapter = together.start(paths.finetuned(share=_SHARE, tentative=True, held=True))
            found = together.start(find(paths, embed=embed))
            race = _Race(adapter, found, together.start(_read(paths, found)))
            scope = await located
            if scope.inside is False:
                await ended(adapter)
                handed = _Handed(StepKind.ESCALATE, f"outside the adapter's scope: {scope.reason}")
                return await self._evidence(paths, race, handed)
            judgement = await self._adapter(paths, race, scope)
            if isinstance(judgement, Judged):
                return await self._accepted(paths, race, judgement, scope)
            return await self._evidence(paths, race, judgement)

    async def _adapter(self, paths: Paths, race: _Race, scope: ScopeReading) -> Judged | _Handed:
        """Returns the adapter's draft where it is accepted, else why evidence has to answer."""
        try:
            tried = judged(paths, await race.adapter)
        except NoAdapter as missing:
            return _Handed(StepKind.ESCALATE, str(missing))
        except PartDown as down:
            paths.degrade(down.component, "the adapter could not be asked")
            return _Handed(StepKind.FALL_BACK, f"{down}; reading passages instead")
        if tried.accepted:
            return tried
        kept = None if tried.draft.abstained else tried
        return _Handed(StepKind.ESCALATE, f"{tried.reason}; {scope.reason}", kept)

    async def _accepted(self, paths: Paths, race: _Race, tried: Judged, scope: ScopeReading) -> Draft:
        await ended(race.reading, race.found)
        await paths.step(StepKind.ACCEPT, Route.FINETUNED, f"{tried.reason}; {scope.reason}")
        passages = _passages(race.found)
        return await paths.support(tried.draft, passages) if passages else tried.draft

    async def _evidence(self, paths: Paths, race: _Race, handed: _Handed) -> Draft:
        kept = handed.kept
        try:
            found = await race.found
        except PartDown as down:
            if kept is None:
                raise
            return await keep(paths, kept, down)
        # One decision, so that what the reading has said since is not discarded by a second.
        lacking = by_words(paths, found)
        reason = f"{handed.reason}; {lacking}" if lacking else handed.reason
        await paths.step(handed.kind, Route.RAG, reason)
        try:
            draft = await race.reading
        except PartDown as down:
            return await quote(paths, found.passages, down)
        if kept is not None and (draft is None or draft.abstained):
            return await self._unanswered(paths, kept, found)
        if draft is None:
            await paths.step(StepKind.ABSTAIN, Route.RAG, NOTHING_FOUND)
            return NOTHING
        return await settle(paths, draft, num_found=len(found.passages))

    async def _unanswered(self, paths: Paths, kept: Judged, found: Found) -> Draft:
        why = "none of the passages read holds the answer" if found.passages else NOTHING_FOUND
        reason = f"{why}; keeping the adapter's answer although not accepted: {kept.reason}"
        await paths.step(StepKind.ESCALATE, Route.FINETUNED, reason)
        await paths.show(kept.draft)
        return kept.draft


async def _locate(paths: Paths, *, embed: bool) -> ScopeReading:
    if not embed:
        return ScopeReading(None, None, "scope unknown: no room to embed the question")
    try:
        return await paths.scope()
    except PartDown as down:
        paths.degrade(down.component, "nobody looked whether the question lies in the adapter's scope")
        return ScopeReading(None, None, f"scope unknown: {down}")


async def _read(paths: Paths, found: asyncio.Task[Found]) -> Draft | None:
    passages = (await asyncio.shield(found)).passages
    return await paths.read(passages, tentative=True) if passages else None


def _passages(found: asyncio.Task[Found]) -> tuple[Passage, ...]:
    """Returns what was found by now."""
    if found.cancelled() or found.exception() is not None:
        return ()
    return found.result().passages
