"""rag: retrieve, answer from the passages with citations."""

from services.router.domain import Draft, NoAdapter, PartDown, Paths, Route, StepKind
from services.router.policies.evidence import NOTHING, from_passages
from services.router.policies.finetuned import answer_if_sure


class Rag:
    """Answers from retrieved passages."""

    name = "rag"
    description = "Passages are retrieved and the answer is read from them, with citations."

    async def decide(self, paths: Paths) -> Draft:
        """Returns the answer read from passages; raises PartDown when the retriever is down."""
        await paths.step(StepKind.CHOOSE, Route.RAG, "the policy reads retrieved passages")

        async def adapter(support: str) -> Draft:
            await paths.step(StepKind.ESCALATE, Route.FINETUNED, support)
            try:
                return await answer_if_sure(paths)
            except NoAdapter as missing:
                reason = str(missing)
            except PartDown as down:
                paths.degrade(down.component, "the adapter could not be asked")
                reason = str(down)
            await paths.step(StepKind.ABSTAIN, Route.FINETUNED, reason)
            return NOTHING

        return await from_passages(paths, other=adapter)
