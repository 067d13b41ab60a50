"""cascade: fine-tuned first; escalate to passages when the confidence is under the threshold."""

from services.router.domain import Draft, NoAdapter, PartDown, Paths, Route, StepKind
from services.router.policies.finetuned import figure
from services.router.policies.rag import answer_from_passages

_SHARE = 0.4
"""How much of the time left the adapter may take, so that the passages can still be read."""


class Cascade:
    """Accepts the adapter's answer from a threshold of confidence, else reads passages."""

    name = "cascade"

    def __init__(self, *, threshold: float, min_support: float = 0.5) -> None:
        self._threshold = threshold
        self._min_support = min_support
        self.description = (
            f"The answer adapter answers first; below a confidence of {threshold:g} (uncalibrated) passages are read."
        )

    async def decide(self, paths: Paths) -> Draft:
        """Returns the accepted draft; raises PartDown when neither path is left."""
        await paths.step(StepKind.CHOOSE, Route.FINETUNED, "the policy asks the answer adapter first")
        draft = await self._ask_adapter(paths)
        if draft is not None and self._is_enough(draft):
            await paths.step(StepKind.ACCEPT, Route.FINETUNED, f"{figure(draft)} >= threshold {self._threshold:.3f}")
            return draft
        if draft is not None:
            reason = "the adapter gave no answer" if draft.abstained else self._shortfall(draft)
            await paths.step(StepKind.ESCALATE, Route.RAG, reason)
        try:
            return await answer_from_passages(paths, min_support=self._min_support)
        except PartDown as down:
            if draft is None or draft.abstained:
                raise
            return await self._without_evidence(paths, draft, down)

    async def _ask_adapter(self, paths: Paths) -> Draft | None:
        try:
            return await paths.finetuned(share=_SHARE, tentative=True)
        except NoAdapter as missing:
            await paths.step(StepKind.ESCALATE, Route.RAG, str(missing))
        except PartDown as down:
            paths.degrade(down.component, "the adapter could not be asked")
            await paths.step(StepKind.FALL_BACK, Route.RAG, f"{down}; reading passages instead")
        return None

    async def _without_evidence(self, paths: Paths, draft: Draft, down: PartDown) -> Draft:
        paths.degrade(down.component, "the answer comes from the adapter alone, unchecked against documents")
        reason = f"{down}; keeping the adapter's answer although {self._shortfall(draft)}"
        await paths.step(StepKind.FALL_BACK, Route.FINETUNED, reason)
        await paths.show(draft)
        return draft

    def _is_enough(self, draft: Draft) -> bool:
        return not draft.abstained and draft.confidence is not None and draft.confidence.value >= self._threshold

    def _shortfall(self, draft: Draft) -> str:
        return f"{figure(draft)} < threshold {self._threshold:.3f}"
