"""Records: what the audit log is given and what it holds."""

from dataclasses import dataclass, field

from services.router.domain.values import Answer, DecisionStep, Degradation, Drafted, Outcome, Question
from tandem.security import Principal


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Is what the audit log keeps before the first token leaves."""

    answer_id: str
    question: Question
    rewritten_question: str


@dataclass(frozen=True, kw_only=True)
class Closing:
    """Is what the audit log keeps when an answer ends; answer is None unless one was given or refused in words.

    `drafts` are all that a model wrote on the way: what was discarded or broke off as well.
    """

    answer_id: str
    principal: Principal
    outcome: Outcome
    answer: Answer | None = None
    steps: tuple[DecisionStep, ...] = ()
    degraded: tuple[Degradation, ...] = ()
    drafts: tuple[Drafted, ...] = ()
    error_code: str = ""
    error_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """Is one append-only entry as it is stored; record_time is RFC 3339 in UTC with six decimals."""

    writer: str
    sequence: int
    answer_id: str
    kind: str
    outcome: str
    record_time: str
    subject: str
    tenant: str
    payload_json: str
    previous_hash: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class ChainReport:
    """Is the state of one writer's chain; first_fault_sequence is None when it is intact."""

    writer: str
    num_records: int
    first_fault_sequence: int | None = None
    fault: str = ""
    head_hash: str = ""


@dataclass(frozen=True)
class AuditPage:
    """Is a page of records, newest first, and the token of the next page (empty on the last)."""

    records: tuple[AuditRecord, ...] = field(default=())
    next_page_token: str = ""
