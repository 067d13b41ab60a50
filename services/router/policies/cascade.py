"""cascade: fine-tuned first; escalate to passages when the confidence is not enough."""

from services.router.domain import Draft, NoAdapter, PartDown, Paths, Route, StepKind
from services.router.domain.calibration import Artefact
from services.router.policies.evidence import from_passages
from services.router.policies.finetuned import Judged, judged, located

_SHARE = 0.4
"""How much of the time left the adapter may take, so that the passages can still be read."""


class Cascade:
    """Accepts the adapter's answer when it is confident enough, else reads passages."""

    name = "cascade"
    description = "The answer adapter answers first; where its confidence is not enough, passages are read."

    async def decide(self, paths: Paths) -> Draft:
        """Returns the accepted draft; raises PartDown when neither path is left."""
        artefact = paths.domain.artefact
        if artefact is not None and artefact.threshold is None:
            return await self._all_escalated(paths, artefact)
        await paths.step(StepKind.CHOOSE, Route.FINETUNED, "the policy asks the answer adapter first")
        draft = await located(paths, ask_adapter(paths))
        tried = None if draft is None else judged(paths, draft)
        if tried is not None and tried.accepted:
            await paths.step(StepKind.ACCEPT, Route.FINETUNED, tried.reason)
            return tried.draft
        if tried is not None:
            await paths.step(StepKind.ESCALATE, Route.RAG, tried.reason)
        try:
            return await from_passages(paths)
        except PartDown as down:
            if tried is None or tried.draft.abstained:
                raise
            return await keep(paths, tried, down)

    async def _all_escalated(self, paths: Paths, artefact: Artefact) -> Draft:
        """Reads passages at once: no draft could be accepted, so one is written only where nothing else is left."""
        reason = (
            f"no threshold could be certified for a risk of {artefact.risk:.1%} at {artefact.level:.0%}: "
            "everything escalates"
        )
        await paths.step(StepKind.ESCALATE, Route.RAG, reason)
        try:
            return await from_passages(paths)
        except PartDown as down:
            try:
                tried = judged(paths, await paths.finetuned(share=1.0, tentative=True, held=True))
            except (NoAdapter, PartDown):
                raise down from None
            if tried.draft.abstained:
                raise
            return await keep(paths, tried, down)


async def ask_adapter(paths: Paths) -> Draft | None:
    """Returns the adapter's tentative draft; None where there is none, and the question is given to the passages."""
    try:
        return await paths.finetuned(share=_SHARE, tentative=True)
    except NoAdapter as missing:
        await paths.step(StepKind.ESCALATE, Route.RAG, str(missing))
    except PartDown as down:
        paths.degrade(down.component, "the adapter could not be asked")
        await paths.step(StepKind.FALL_BACK, Route.RAG, f"{down}; reading passages instead")
    return None


async def keep(paths: Paths, tried: Judged, down: PartDown) -> Draft:
    """Returns a draft that was not accepted, because passages cannot be had."""
    paths.degrade(down.component, "the answer comes from the adapter alone, unchecked against documents")
    reason = f"{down}; keeping the adapter's answer although not accepted: {tried.reason}"
    await paths.step(StepKind.FALL_BACK, Route.FINETUNED, reason)
    await paths.show(tried.draft)
    return tried.draft
