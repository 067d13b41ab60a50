"""RouterService/Ground: an answer and passages checked, grounding asked, its judgement converted."""

from collections.abc import Iterator

from services.router.domain import Grounding, Passage, Span
from services.router.domain.domains import Depth
from services.router.servicer.check import MAX_ANSWER, MAX_PASSAGES, MAX_QUESTION
from services.router.servicer.convert import groundedness_to_proto
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import router_service_pb2

MAX_PASSAGE, MAX_CHARACTERS = 65_536, 131_072
_DEPTHS = {
    router_service_pb2.GROUNDING_DEPTH_WORDS: Depth.WORDS,
    router_service_pb2.GROUNDING_DEPTH_VECTORS: Depth.VECTORS,
    router_service_pb2.GROUNDING_DEPTH_LIKELIHOOD: Depth.LIKELIHOOD,
    router_service_pb2.GROUNDING_DEPTH_ENTAILMENT: Depth.ENTAILMENT,
}


class Grounder:
    """Answers RouterService/Ground for its servicer."""

    def __init__(self, grounding: Grounding, *, default_depth: Depth, default_timeout_s: float) -> None:
        self._grounding = grounding
        self._default_depth = default_depth
        self._default_timeout_s = default_timeout_s

    async def answer(self, request: router_service_pb2.GroundRequest) -> router_service_pb2.GroundResponse:
        """Returns the groundedness of the request's answer; raises InvalidInput or PermissionDenied."""
        call.require_role("user")
        faults = list(_faults(request))
        if faults:
            raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults[:4]), faults)
        left = call.remaining()
        found = await self._grounding.ground(
            request.question,
            request.answer,
            [_passage(place, text) for place, text in enumerate(request.passages)],
            depth=_DEPTHS.get(request.depth, self._default_depth),
            timeout_s=self._default_timeout_s if left is None else left * _SHARE,
        )
        return router_service_pb2.GroundResponse(groundedness=groundedness_to_proto(found))


_SHARE = 0.9
"""Share of the caller's time for the peers: what they fail to deliver is still told in time."""


def _passage(place: int, text: str) -> Passage:
    return Passage(document_id=str(place), chunk_id=str(place), title="", text=text, span=Span(0, len(text)))


def _faults(request: router_service_pb2.GroundRequest) -> Iterator[FieldViolation]:
    if len(request.question) > MAX_QUESTION:
        yield FieldViolation("question", f"must have at most {MAX_QUESTION} characters")
    if not 1 <= len(request.answer) <= MAX_ANSWER:
        yield FieldViolation("answer", f"must have 1 to {MAX_ANSWER} characters, has {len(request.answer)}")
    num = len(request.passages)
    if not 1 <= num <= MAX_PASSAGES:
        yield FieldViolation("passages", f"must be 1 to {MAX_PASSAGES}, are {num}")
    for place, text in enumerate(request.passages[:MAX_PASSAGES]):
        if not 1 <= len(text) <= MAX_PASSAGE:
            yield FieldViolation(f"passages[{place}]", f"must have 1 to {MAX_PASSAGE} characters, has {len(text)}")
    if sum(map(len, request.passages)) > MAX_CHARACTERS:
        yield FieldViolation("passages", f"must have at most {MAX_CHARACTERS} characters together")
    if request.depth != router_service_pb2.GROUNDING_DEPTH_UNSPECIFIED and request.depth not in _DEPTHS:
        yield FieldViolation("depth", f"is not known: {request.depth}")
