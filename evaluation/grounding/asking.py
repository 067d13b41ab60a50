"""Asks the running router for the groundedness of given answers, as one of its callers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from evaluation.grounding.cases import Case
from evaluation.grounding.measuring import Ask, Judged
from tandem.client.requests import translated
from tandem.rpc.channel import connect
from tandem.v1 import router_service_pb2 as router
from tandem.v1.router_service_pb2_grpc import RouterServiceStub

DEPTHS: Mapping[str, router.GroundingDepth.ValueType] = {
    "words": router.GROUNDING_DEPTH_WORDS,
    "vectors": router.GROUNDING_DEPTH_VECTORS,
    "likelihood": router.GROUNDING_DEPTH_LIKELIHOOD,
    "entailment": router.GROUNDING_DEPTH_ENTAILMENT,
}


@asynccontextmanager
async def router_at(address: str, *, token: str | None, timeout_s: float) -> AsyncIterator[Any]:
    """Connects to a router; yields its stub."""
    channel = connect(address, token=token, default_timeout_s=timeout_s)
    try:
        yield RouterServiceStub(channel)
    finally:
        await channel.close()


def asking(stub: Any, depth: str) -> Ask:
    """Returns what asks for one answer's groundedness at a depth; it raises TandemError where the router refuses."""

    async def ask(case: Case) -> Judged:
        request = router.GroundRequest(
            question=case.question, answer=case.answer, passages=case.context, depth=DEPTHS[depth]
        )
        with translated():
            found = (await stub.Ground(request)).groundedness
        return Judged(
            value=found.value if found.HasField("value") else None,
            status=router.Groundedness.Status.Name(found.status).removeprefix("STATUS_").lower(),
            rests_on=tuple(found.rests_on),
        )

    return ask
