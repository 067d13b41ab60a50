"""What a request must be; every fault names its field."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from services.router.domain import Question, Turn
from tandem.errors import FieldViolation, InvalidInput
from tandem.security import Principal
from tandem.v1 import router_service_pb2

MAX_QUESTION, MAX_ANSWER, MAX_TURNS, MAX_PASSAGES = 4096, 8192, 16, 20


def question_of(
    request: router_service_pb2.AskRequest,
    *,
    principal: Principal,
    default_policy: str,
    default_passages: int,
    timeout_s: float | None,
) -> Question:
    """Returns the checked request; raises InvalidInput with all its faults."""
    faults = list(_text_faults(request))
    if request.HasField("max_passages") and not 1 <= request.max_passages <= MAX_PASSAGES:
        faults.append(FieldViolation("max_passages", f"must be 1 to {MAX_PASSAGES}, is {request.max_passages}"))
    as_of = None
    if request.HasField("as_of"):
        try:
            as_of = moment_of(request.as_of, "as_of")
        except InvalidInput as error:
            faults.extend(error.violations)
    if faults:
        raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults[:4]), faults)
    return Question(
        text=request.question.strip(),
        principal=principal,
        policy=request.policy or default_policy,
        history=tuple(Turn(turn.question, turn.answer) for turn in request.history),
        max_passages=request.max_passages if request.HasField("max_passages") else default_passages,
        as_of=as_of,
        timeout_s=timeout_s,
    )


def moment_of(stamp: Timestamp, field: str) -> datetime:
    """Returns the moment of a Timestamp; raises InvalidInput when it is out of range."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidInput.of(field, "is not a moment of the years 1 to 9999") from None


def _text_faults(request: router_service_pb2.AskRequest) -> list[FieldViolation]:
    faults = []
    if not request.question.strip():
        faults.append(FieldViolation("question", "must not be empty"))
    if len(request.question) > MAX_QUESTION:
        faults.append(FieldViolation("question", f"must have at most {MAX_QUESTION} characters"))
    if len(request.history) > MAX_TURNS:
        faults.append(FieldViolation("history", f"must have at most {MAX_TURNS} turns, has {len(request.history)}"))
    for index, turn in enumerate(request.history[:MAX_TURNS]):
        if not turn.question.strip() or len(turn.question) > MAX_QUESTION:
            faults.append(FieldViolation(f"history[{index}].question", f"must have 1 to {MAX_QUESTION} characters"))
        if len(turn.answer) > MAX_ANSWER:
            faults.append(FieldViolation(f"history[{index}].answer", f"must have at most {MAX_ANSWER} characters"))
    return faults
