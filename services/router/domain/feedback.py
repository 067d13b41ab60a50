"""Feedback: what people say of answers, and the ports to where it is kept and used."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.router.domain.calibration import Features
from services.router.domain.values import Route

MAX_VERDICTS = 16
"""The most verdicts that are recorded on one answer."""


class Verdict(StrEnum):
    """Is what a person found."""

    RIGHT = "right"
    WRONG = "wrong"
    EDITED = "edited"
    """Used after a correction: as it stood, the answer was not right."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Is what a person says of an answer; deflected_ticket is None where nobody knows."""

    verdict: Verdict
    corrected_text: str = ""
    deflected_ticket: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Is a recorded judgement beside what was known of the answer.

    corrected_text is "" where none was told or the log keeps no text; corrected_sha256 is its SHA-256 in either case.
    signals is None where nothing was known, or where the router abstained: those of a withheld draft tell nothing of
    the text that was judged.
    """

    answer_id: str
    tenant: str
    subject: str
    number: int
    """Place among the answer's verdicts, 1 to MAX_VERDICTS."""
    verdict: Verdict
    submitted: datetime
    corrected_text: str = ""
    corrected_sha256: str = ""
    deflected_ticket: bool | None = None
    domain: str = "default"
    policy: str = ""
    route: Route = Route.NONE
    signals: Features | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """Is what the log holds of an answer that somebody judges; `given` where it ended with a text."""

    answer_id: str
    tenant: str
    asker: str
    given: bool
    domain: str = "default"
    policy: str = ""
    route: Route = Route.NONE
    signals: Features | None = None
    feedback: tuple[Feedback, ...] = ()
    """In the order in which it came."""
    num_verdicts: int = 0
    """Verdicts on record, those that cannot be read any more among them."""


@dataclass(frozen=True)
class FeedbackPage:
    """Is a page of feedback, newest first, and the token of the next page (empty on the last)."""

    feedback: tuple[Feedback, ...] = ()
    next_page_token: str = ""


class FeedbackLog(Protocol):
    """Is the port by which feedback is recorded."""

    async def judge(self, answer: JudgedAnswer, judgement: Judgement, *, subject: str) -> None:
        """Records the answer's next verdict; returns when it is durable, raises Unavailable when it is not."""
        ...


class FeedbackRecords(Protocol):
    """Is the port by which feedback is read."""

    async def judged(self, tenant: str, answer_id: str) -> JudgedAnswer:
        """Returns a tenant's answer with its feedback; raises NotFound, also for another tenant's."""
        ...

    async def feedback(self, tenant: str, *, domain: str, size: int, token: str) -> FeedbackPage:
        """Returns a page of a tenant's feedback, of all domains where `domain` is ""; raises InvalidInput for a token
        that is not one. A page may hold fewer than `size`, none even, and yet not be the last."""
        ...

    async def newest_feedback(self, limit: int) -> tuple[Feedback, ...]:
        """Returns the newest feedback of all tenants, newest first."""
        ...


class FeedbackObserver(Protocol):
    """Is told of every verdict."""

    def note(self, feedback: Feedback) -> None:
        """Takes what it needs of a verdict; must be quick and must not fail."""
        ...
