"""FeedbackService: verdicts checked and recorded, and those of the caller's tenant listed."""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.router.domain.feedback import Feedback, Judgement, Verdict
from services.router.feedback import FeedbackIntake
from services.router.servicer.convert import ROUTES, signals_to_proto
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import feedback_service_pb2 as wire
from tandem.v1 import feedback_service_pb2_grpc

MAX_CORRECTION = 8192
_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_VERDICTS = {
    wire.VERDICT_RIGHT: Verdict.RIGHT,
    wire.VERDICT_WRONG: Verdict.WRONG,
    wire.VERDICT_EDITED: Verdict.EDITED,
}
_SHOWN = {verdict: number for number, verdict in _VERDICTS.items()}

Context = grpc.aio.ServicerContext[Any, Any]


class FeedbackServicer(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Checks, calls the intake, converts; the tenant is always the caller's own."""

    def __init__(self, intake: FeedbackIntake) -> None:
        self._intake = intake

    async def SubmitFeedback(
        self, request: wire.SubmitFeedbackRequest, context: Context
    ) -> wire.SubmitFeedbackResponse:
        """Records a verdict."""
        caller = call.require_role("user")
        recorded = await self._intake.submit(request.answer_id, _judgement(request), caller)
        return wire.SubmitFeedbackResponse(feedback=_feedback(recorded))

    async def ListFeedback(self, request: wire.ListFeedbackRequest, context: Context) -> wire.ListFeedbackResponse:
        """Returns a page of the tenant's feedback, newest first."""
        caller = call.require_role("operator", "auditor")
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidInput.of("page_size", f"must be 0 to {_MAX_PAGE}, is {request.page_size}")
        page = await self._intake.list(
            caller.tenant, domain=request.domain, size=request.page_size or _DEFAULT_PAGE, token=request.page_token
        )
        return wire.ListFeedbackResponse(
            feedback=[_feedback(feedback) for feedback in page.feedback], next_page_token=page.next_page_token
        )


def _judgement(request: wire.SubmitFeedbackRequest) -> Judgement:
    """Returns the checked request; raises InvalidInput with all its faults."""
    faults = []
    verdict, text = _VERDICTS.get(request.verdict), request.corrected_text.strip()
    if not request.answer_id:
        faults.append(FieldViolation("answer_id", "must not be empty"))
    if verdict is None:
        faults.append(FieldViolation("verdict", "must be VERDICT_RIGHT, VERDICT_WRONG or VERDICT_EDITED"))
    if len(request.corrected_text) > MAX_CORRECTION:
        faults.append(FieldViolation("corrected_text", f"must have at most {MAX_CORRECTION} characters"))
    if verdict is Verdict.EDITED and not text:
        faults.append(FieldViolation("corrected_text", "must not be empty with VERDICT_EDITED"))
    if verdict is Verdict.RIGHT and request.corrected_text:
        faults.append(FieldViolation("corrected_text", "must be empty with VERDICT_RIGHT"))
    if verdict is None or faults:
        raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults), faults)
    deflected = request.deflected_ticket if request.HasField("deflected_ticket") else None
    return Judgement(verdict=verdict, corrected_text=text, deflected_ticket=deflected)


def _feedback(feedback: Feedback) -> wire.Feedback:
    stamp = Timestamp()
    stamp.FromDatetime(feedback.submitted)
    return wire.Feedback(
        answer_id=feedback.answer_id,
        verdict=_SHOWN[feedback.verdict],
        corrected_text=feedback.corrected_text,
        deflected_ticket=feedback.deflected_ticket,
        submit_time=stamp,
        domain=feedback.domain,
        policy=feedback.policy,
        route=ROUTES[feedback.route],
        signals=None if feedback.signals is None else signals_to_proto(feedback.signals),
    )
