"""What a request must be; every fault names its field."""

from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.router.domain import Allowance, Domains, Question, Turn
from services.router.domain.profiles import MAX_COST
from tandem.errors import FieldViolation, InvalidInput
from tandem.security import Principal
from tandem.v1 import router_service_pb2

MAX_QUESTION, MAX_ANSWER, MAX_TURNS, MAX_PASSAGES = 4096, 8192, 16, 20
MAX_CALLS, MIN_BUDGET_S, MAX_BUDGET_S = 1000, 0.001, 3600


def question_of(
    request: router_service_pb2.AskRequest,
    *,
    principal: Principal,
    domains: Domains,
    default_passages: int,
    timeout_s: float | None,
) -> Question:
    """Returns the checked request of a domain that the caller may ask.

    Raises InvalidInput with all its faults, NotFound or FailedPrecondition for the domain.
    """
    faults = [*_text_faults(request), *_budget_faults(request.budget)]
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
    domain = domains.find(request.domain, principal)
    budget = request.budget
    if budget.HasField("max_cost") and domain.costs is None:
        said = (
            f'cannot be kept to: the domain "{domain.name}" declares no costs; leave it out, or give its file [costs]'
        )
        raise InvalidInput.of("budget.max_cost", said)
    limits = [timeout_s, _seconds(budget.deadline) if budget.HasField("deadline") else None]
    return Question(
        text=request.question.strip(),
        principal=principal,
        policy=request.policy or domain.policy,
        history=tuple(Turn(turn.question, turn.answer) for turn in request.history),
        max_passages=request.max_passages if request.HasField("max_passages") else default_passages,
        as_of=as_of,
        timeout_s=min((limit for limit in limits if limit is not None), default=None),
        domain=domain,
        allowance=Allowance(
            max_calls=budget.max_calls if budget.HasField("max_calls") else None,
            max_cost=budget.max_cost if budget.HasField("max_cost") else None,
        ),
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


def _budget_faults(budget: router_service_pb2.AnswerBudget) -> Iterator[FieldViolation]:
    if budget.HasField("max_calls") and not 1 <= budget.max_calls <= MAX_CALLS:
        yield FieldViolation("budget.max_calls", f"must be 1 to {MAX_CALLS:,}, is {budget.max_calls}")
    if budget.HasField("deadline") and not MIN_BUDGET_S <= _seconds(budget.deadline) <= MAX_BUDGET_S:
        yield FieldViolation("budget.deadline", "must be 1 ms to 1 h")
    if budget.HasField("max_cost") and not 0 <= budget.max_cost <= MAX_COST:
        yield FieldViolation("budget.max_cost", f"must be a number from 0 to {MAX_COST:,}")


def _seconds(length: Duration) -> float:
    return length.seconds + length.nanos / 1e9
