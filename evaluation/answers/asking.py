"""Asks questions, some at once, and keeps every answer."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.answers.answered import Answered, Kept, of_answer
from evaluation.answers.questions import Question
from evaluation.retrieval.documents import side_by_side
from tandem.errors import (
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
    TandemError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

Ask = Callable[[Question], Awaitable[dict[str, Any]]]
"""Asks one question and returns what came back as fields of Answered; raises TandemError."""
Progress = Callable[[str, int, int], None]
_TRIES, _PAUSE_S, _REFUSALS = 6, 2.0, 3
_HOPELESS = (FailedPrecondition, InvalidInput, NotFound, PermissionDenied, Unauthenticated, Unimplemented)


@dataclass(frozen=True)
class Job:
    """Is one question for one arm."""

    arm: str
    question: Question
    ask: Ask


class Router:
    """Asks a domain by the router, each question as the principal it names; `client_of` returns a principal's client.

    A client is tandem.client.AsyncRouterClient or whatever has its `ask`.
    """

    def __init__(self, client_of: Callable[[str], Any], *, domain: str, timeout_s: float | None = None) -> None:
        self._client_of = client_of
        self._domain = domain
        self._timeout_s = timeout_s

    def by(self, policy: str) -> Ask:
        """Returns what asks by a policy."""

        async def ask(question: Question) -> dict[str, Any]:
            answer = await self._client_of(question.principal).ask(
                question.question,
                policy=policy,
                domain=self._domain,
                history=question.history,
                timeout=self._timeout_s,
            )
            return of_answer(answer)

        return ask


async def ask_all(
    jobs: Sequence[Job], kept: Kept, *, concurrency: int, told: Callable[[], None], pause_s: float = _PAUSE_S
) -> dict[str, str]:
    """Asks what is not kept yet; returns the arms that cannot be asked at all, with the reason.

    Refusals are kept as answers with an error; an arm that begins with several of them is given up. Overload and a part
    that is down are waited for, and raised where they last.
    """
    waiting = deque(jobs)
    refused: dict[str, list[str]] = {}
    served = {job.arm for job in jobs if kept.has(job.arm, job.question)}

    async def work() -> None:
        while waiting:
            job = waiting.popleft()
            hopeless = job.arm not in served and len(refused.get(job.arm, ())) >= _REFUSALS
            if not hopeless and not kept.has(job.arm, job.question):
                row, reason = await _answer(job, alone=concurrency == 1, pause_s=pause_s)
                kept.add(row)
                if reason:
                    refused.setdefault(job.arm, []).append(reason)
                else:
                    served.add(job.arm)
            told()

    await side_by_side(work, min(concurrency, len(jobs)))
    return {arm: reasons[0] for arm, reasons in refused.items() if arm not in served}


async def _answer(job: Job, *, alone: bool, pause_s: float) -> tuple[Answered, str]:
    """Returns an answer, and the reason where it is a refusal that another question might meet as well."""
    same: dict[str, Any] = {"arm": job.arm, "question_id": job.question.question_id, "asked": job.question.asked}
    for attempt in range(_TRIES):
        started = time.perf_counter()
        try:
            found = await job.ask(job.question)
        except (Overloaded, Unavailable) as error:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(max(pause_s, error.retry_after_s or 0.0))
        except TandemError as error:
            lasting = error.message if isinstance(error, _HOPELESS) else ""
            return Answered(**same, seconds=time.perf_counter() - started, error=error.code), lasting
        else:
            return Answered(**{"seconds": time.perf_counter() - started, **found}, **same, alone=alone), ""
    raise AssertionError("unreachable")
