"""Takes verdicts on answers: checks who may judge, has them recorded, and tells those who learn from them."""

import asyncio
import hashlib
from weakref import WeakValueDictionary

from services.router.domain.feedback import (
    MAX_VERDICTS,
    Feedback,
    FeedbackLog,
    FeedbackObserver,
    FeedbackPage,
    FeedbackRecords,
    JudgedAnswer,
    Judgement,
)
from services.router.metrics import RouterMetrics
from tandem.errors import FailedPrecondition, NotFound, TooLarge
from tandem.security import Principal

MAX_RECALLED = 4096
"""The newest verdicts, of all tenants, that are told anew at a start."""


class FeedbackIntake:
    """Takes feedback and shows it."""

    def __init__(
        self, *, log: FeedbackLog, records: FeedbackRecords, observer: FeedbackObserver, metrics: RouterMetrics
    ) -> None:
        self._log = log
        self._records = records
        self._observer = observer
        self._metrics = metrics
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Tells the observer the newest verdicts of earlier lives, oldest first; raises Unavailable."""
        for feedback in reversed(await self._records.newest_feedback(MAX_RECALLED)):
            self._observer.note(feedback)

    async def submit(self, answer_id: str, judgement: Judgement, caller: Principal) -> Feedback:
        """Returns the judgement as it is on record, durable; repeated by the same person it is not recorded again.

        Raises NotFound for an answer that the caller may not judge, FailedPrecondition for one without a text,
        TooLarge where enough was said of it, Unavailable when the log cannot be read or written.
        """
        # One at a time for each answer, so that a double click is a repetition; among replicas the log's own rule
        # lets one through, and the other is told to try again.
        async with self._turns.setdefault((caller.tenant, answer_id), asyncio.Lock()):
            answer = await self._records.judged(caller.tenant, answer_id)
            _check(answer, caller)
            last = _last(answer, caller.subject)
            if last is not None and _same(last, judgement):
                return last
            if answer.num_verdicts >= MAX_VERDICTS:
                raise TooLarge(f"{MAX_VERDICTS} verdicts were recorded on this answer", reason="TOO_MUCH_FEEDBACK")
            await self._log.judge(answer, judgement, subject=caller.subject)
            recorded = _last(await self._records.judged(caller.tenant, answer_id), caller.subject)
        if recorded is None:
            raise _not_found(answer_id)
        self._count(recorded, answer)
        self._observer.note(recorded)
        return recorded

    async def list(self, tenant: str, *, domain: str, size: int, token: str) -> FeedbackPage:
        """Returns a page of a tenant's feedback, newest first; raises InvalidInput or Unavailable."""
        return await self._records.feedback(tenant, domain=domain, size=size, token=token)

    def _count(self, feedback: Feedback, before: JudgedAnswer) -> None:
        self._metrics.feedback.labels(feedback.policy, feedback.route.value, feedback.verdict.value).inc()
        if feedback.deflected_ticket and not any(one.deflected_ticket for one in before.feedback):
            self._metrics.deflected_tickets.labels(feedback.policy).inc()


def _check(answer: JudgedAnswer, caller: Principal) -> None:
    if answer.asker != caller.subject and "operator" not in caller.roles:
        raise _not_found(answer.answer_id)
    if not answer.given:
        raise FailedPrecondition(
            "this answer ended without a text, or has not ended: there is nothing to judge", reason="ANSWER_NOT_GIVEN"
        )


def _not_found(answer_id: str) -> NotFound:
    return NotFound("there is no answer of that name", metadata={"answer_id": answer_id[:64]})


def _last(answer: JudgedAnswer, subject: str) -> Feedback | None:
    return next((one for one in reversed(answer.feedback) if one.subject == subject), None)


def _same(recorded: Feedback, judgement: Judgement) -> bool:
    text = judgement.corrected_text
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""
    return (recorded.verdict, recorded.corrected_sha256, recorded.deflected_ticket) == (
        judgement.verdict,
        sha256,
        judgement.deflected_ticket,
    )
