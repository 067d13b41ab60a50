"""ensemble: weights and passages write one answer together, token by token."""

from services.router.domain import BUDGET, Draft, NoAdapter, PartDown, Passage, Paths, Route, StepKind
from services.router.policies.cascade import ask_adapter
from services.router.policies.evidence import NOTHING, NOTHING_FOUND, by_words, find, quote, read, settle
from services.router.policies.finetuned import given_if_sure, judged
from services.router.policies.rag import Rag

_ALONE = 0.98
"""Share of one prompt from which the other is left out: it would change next to nothing."""


class Ensemble:
    """Blends the adapter's next token with that read from passages, by a weight set for each question."""

    name = "ensemble"
    description = "Weights and passages answer together, token by token, by a weight set for each question."

    def __init__(self) -> None:
        self._reading_alone = Rag()

    async def decide(self, paths: Paths) -> Draft:
        """Returns the blended answer, or that of the one path that is left; raises PartDown where none is."""
        if not paths.room(calls=3):
            paths.degrade(BUDGET, "the adapter did not write along")
            return await self._reading_alone.decide(paths)
        await paths.step(StepKind.CHOOSE, Route.ENSEMBLE, "weights and passages answer together")
        try:
            found = await find(paths, embed=paths.room(calls=4))
        except PartDown as down:
            return await self._weights_alone(paths, down)
        lacking = by_words(paths, found)
        if lacking:
            await paths.step(StepKind.FALL_BACK, Route.ENSEMBLE, lacking)
        if not found.passages:
            await paths.step(StepKind.ESCALATE, Route.FINETUNED, NOTHING_FOUND)
            return await self._weights_first(paths, ())
        weight = paths.weight(found.passages)
        if weight >= _ALONE:
            await paths.step(StepKind.CHOOSE, Route.FINETUNED, f"weight {weight:.2f} >= {_ALONE}")
            return await self._weights_first(paths, found.passages)
        if weight <= 1 - _ALONE:
            await paths.step(StepKind.CHOOSE, Route.RAG, f"weight {weight:.2f} <= {1 - _ALONE:.2f}")
            return await read(paths, found.passages)
        return await self._blend(paths, found.passages, weight)

    async def _blend(self, paths: Paths, passages: tuple[Passage, ...], weight: float) -> Draft:
        share = f"weight {weight:.2f} of the adapter's prompt, {1 - weight:.2f} of the reading one"
        await paths.step(StepKind.CHOOSE, Route.ENSEMBLE, share)
        try:
            draft = await paths.blend(passages, weight=weight)
        except NoAdapter as missing:
            await paths.step(StepKind.ESCALATE, Route.RAG, str(missing))
            return await read(paths, passages)
        except PartDown as down:
            return await quote(paths, passages, down)

        async def reading(support: str) -> Draft:
            await paths.step(StepKind.ESCALATE, Route.RAG, support)
            return await read(paths, passages)

        return await settle(paths, draft, num_found=len(passages), other=reading)

    async def _weights_first(self, paths: Paths, passages: tuple[Passage, ...]) -> Draft:
        draft = await ask_adapter(paths)
        if passages:
            tried = None if draft is None else judged(paths, draft)
            if tried is not None and tried.accepted:
                await paths.step(StepKind.ACCEPT, Route.FINETUNED, tried.reason)
                return tried.draft
            if tried is not None:
                await paths.step(StepKind.ESCALATE, Route.RAG, tried.reason)
            return await read(paths, passages)
        if draft is not None:
            return await given_if_sure(paths, draft)
        await paths.step(StepKind.ABSTAIN, Route.RAG, NOTHING_FOUND)
        return NOTHING

    async def _weights_alone(self, paths: Paths, down: PartDown) -> Draft:
        paths.degrade(down.component, "the answer comes from the adapter alone, unchecked against documents")
        await paths.step(StepKind.FALL_BACK, Route.FINETUNED, f"{down}; the adapter answers alone")
        try:
            tried = judged(paths, await paths.finetuned(share=1.0, tentative=False))
        except NoAdapter:
            raise down from None
        kind = StepKind.ABSTAIN if tried.draft.abstained else StepKind.ACCEPT
        await paths.step(kind, Route.FINETUNED, tried.reason)
        return tried.draft
