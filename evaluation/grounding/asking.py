"""Asks the running router for the groundedness of given answers, as one of its callers."""

from collections.abc import Mapping

from evaluation.grounding.cases import Case
from evaluation.grounding.measuring import Ask, Judged
from tandem.client import AsyncRouterClient
from tandem.v1 import router_service_pb2 as router

DEPTHS: Mapping[str, router.GroundingDepth.ValueType] = {
    "words": router.GROUNDING_DEPTH_WORDS,
    "vectors": router.GROUNDING_DEPTH_VECTORS,
    "likelihood": router.GROUNDING_DEPTH_LIKELIHOOD,
    "entailment": router.GROUNDING_DEPTH_ENTAILMENT,
}


def asking(client: AsyncRouterClient, depth: str) -> Ask:
    """Returns what asks for one answer's groundedness at a depth; it raises TandemError where the router refuses."""

    async def ask(case: Case) -> Judged:
        found = await client.ground(case.answer, case.context, question=case.question, depth=DEPTHS[depth])
        return Judged(
            value=found.value if found.HasField("value") else None,
            status=router.Groundedness.Status.Name(found.status).removeprefix("STATUS_").lower(),
            rests_on=tuple(found.rests_on),
        )

    return ask
