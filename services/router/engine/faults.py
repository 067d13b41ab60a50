"""What a failing part means for the answer: another path, a refusal, or the caller's own fault."""

from services.router.domain import BUDGET, EMBEDDER, GENERATOR, NoAdapter, PartDown
from services.router.engine.budget import Budget
from tandem.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidInput,
    Overloaded,
    PermissionDenied,
    TandemError,
    Unavailable,
)

_PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
"""Reason by which the generator refuses a prompt longer than the model's context."""
_OTHER_MODEL = "EMBEDDING_MODEL_MISMATCH"
"""Reason by which the retriever says that nobody serves the model of its vectors."""
_LEFT_ALONE = "BREAKER_OPEN"
"""Reason of a call that was not made because the peer's last ones failed."""
_GUESS_S = 1.0
"""When to come back where nobody knows."""
_CALLERS_OWN = (InvalidInput, PermissionDenied)


def translate(error: Exception, *, component: str, limit_s: float, budget: Budget) -> Exception:
    """Returns what a policy should see when a part failed: PartDown, unless the fault or the time is the caller's."""
    if isinstance(error, TimeoutError | DeadlineExceeded):
        if budget.spent:
            return DeadlineExceeded(f"the deadline passed while the {component} worked")
        return PartDown(component, f"took longer than its share of {limit_s:.1f} s")
    if isinstance(error, _CALLERS_OWN):
        return error
    if isinstance(error, Overloaded):
        return PartDown(component, "is overloaded", retry_after_s=error.retry_after_s, full=True)
    if isinstance(error, Unavailable):
        left_alone = error.reason == _LEFT_ALONE
        detail = "is not asked for now: its last calls failed" if left_alone else "is not available"
        return PartDown(component, detail, retry_after_s=error.retry_after_s)
    code = error.code if isinstance(error, TandemError) else "UNKNOWN"
    return PartDown(component, f"failed with {code}")


def refusal(error: PartDown | NoAdapter) -> TandemError:
    """Returns the status of a question for which no path is left."""
    if isinstance(error, NoAdapter):
        return FailedPrecondition(str(error), reason="ADAPTER_NOT_LOADED", metadata={"adapter": error.adapter})
    where = {"component": error.component}
    if error.component == BUDGET:
        return FailedPrecondition(f"no path can answer: {error}", reason="BUDGET_TOO_SMALL", metadata=where)
    retry_after_s = _GUESS_S if error.retry_after_s is None else error.retry_after_s
    if error.full:
        return Overloaded(str(error), retry_after_s=retry_after_s, metadata=where)
    return Unavailable(f"no path is left: {error}", retry_after_s=retry_after_s, reason="PART_DOWN", metadata=where)


def search_refused(error: InvalidInput | FailedPrecondition, *, by_words: bool) -> TandemError | PartDown:
    """Returns what a refused search means: the embedder's fault where the same search by words may do."""
    if isinstance(error, InvalidInput):
        if by_words:
            return InvalidInput.of("question", "cannot be searched for")
        return PartDown(EMBEDDER, "its vector does not fit the stored ones")
    if error.reason == _OTHER_MODEL and not by_words:
        return PartDown(EMBEDDER, "the model of the stored vectors is not served")
    return error


def is_too_long(error: InvalidInput) -> bool:
    """Tells whether the generator refused a prompt for its length, so that a shorter one may do."""
    return error.reason == _PROMPT_TOO_LONG


def prompt_refused(error: InvalidInput) -> InvalidInput | PartDown:
    """Returns what a refused prompt means; its fields are not the caller's.

    A question that no prompt can hold is the caller's fault, any other refusal a disagreement with the generator.
    """
    if not is_too_long(error):
        return PartDown(GENERATOR, "refused the prompt")
    description = f"does not fit the model: {error.message}"
    return InvalidInput(
        f"question {description}", [FieldViolation("question", description)], reason="QUESTION_TOO_LONG"
    )
