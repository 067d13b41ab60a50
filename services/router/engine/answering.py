"""The life of an answer: admitted, recorded as opened, decided, recorded as closed, given."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.trace import Tracer

from services.router.domain import (
    Answer,
    Audit,
    Closing,
    Embedder,
    Emit,
    Generator,
    Grounding,
    NoAdapter,
    Observer,
    Opening,
    Outcome,
    PartDown,
    Policy,
    Question,
    Retriever,
    Route,
    Started,
)
from services.router.engine.adapters import AdapterDirectory
from services.router.engine.admission import Admission
from services.router.engine.budget import Budget
from services.router.engine.faults import refusal
from services.router.engine.judging import Judges
from services.router.engine.rewrite import rewrite
from services.router.engine.run import Run
from services.router.engine.tools import RunSettings, Tools
from services.router.metrics import RouterMetrics
from tandem.errors import DeadlineExceeded, InvalidInput, TandemError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Holds the parts that answers are made with."""

    embedder: Embedder
    retriever: Retriever
    generator: Generator
    audit: Audit
    grounding: Grounding


class RouterEngine:
    """Answers questions by policies. Every answer has one opened record and, when it ends, one closed record."""

    def __init__(
        self,
        *,
        ports: Ports,
        policies: Mapping[str, Policy],
        settings: RunSettings,
        admission: Admission,
        metrics: RouterMetrics,
        tracer: Tracer,
        adapter_cache_s: float,
        default_timeout_s: float,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.policies = policies
        self._ports = ports
        self._admission = admission
        self._metrics = metrics
        self._tracer = tracer
        self._default_timeout_s = default_timeout_s
        self._observer = observer
        self._clock = clock
        self._new_id = new_id
        self._records: set[asyncio.Task[None]] = set()
        self._tools = Tools(
            embedder=ports.embedder,
            retriever=ports.retriever,
            generator=ports.generator,
            adapters=AdapterDirectory(ports.generator, keep_s=adapter_cache_s),
            grounding=ports.grounding,
            judges=Judges(),
            metrics=metrics,
            tracer=tracer,
            settings=settings,
        )

    async def answer(self, question: Question, emit: Emit) -> Answer:
        """Returns the answer, after `emit` was given what happened on the way; raises TandemError.

        The closed record is durable when this returns or raises, except when it raises because it could not be written.
        """
        if not question.policy:
            question = replace(question, policy=question.domain.policy)
        policy = self.policies.get(question.policy)
        if policy is None:
            raise InvalidInput.of("policy", f'is "{question.policy[:64]}"; known are {", ".join(self.policies)}')
        timeout_s = self._default_timeout_s if question.timeout_s is None else question.timeout_s
        budget = Budget(timeout_s, clock=self._clock)
        async with self._admission.slot(budget.left()):
            with self._tracer.start_as_current_span(
                "router.answer", record_exception=False, set_status_on_exception=False
            ) as span:
                span.set_attribute("tandem.policy", policy.name)
                return await self._recorded(question, policy=policy, budget=budget, emit=emit)

    async def stop(self) -> None:
        """Waits for records that are still being written for callers that have left."""
        while self._records:
            await asyncio.wait(self._records)

    async def _recorded(self, question: Question, *, policy: Policy, budget: Budget, emit: Emit) -> Answer:
        answer_id = self._new_id()
        start = time.perf_counter()
        with self._tracer.start_as_current_span("router.rewrite"):
            rewritten = rewrite(question.text, question.history)
        run = Run(question, rewritten=rewritten, budget=budget, emit=emit, tools=self._tools)
        run.stages.before("rewrite", time.perf_counter() - start)
        opening = self._own(
            self._ports.audit.open(Opening(answer_id=answer_id, question=question, rewritten_question=rewritten))
        )
        try:
            answer = await self._decided(answer_id, run=run, policy=policy, emit=emit, opening=opening)
        # However an answer ends it is recorded, then the failure goes on: this is the root of an answer.
        except (Exception, asyncio.CancelledError) as error:
            closing = _failed(answer_id, run, error)
            self._count(policy.name, run=run, outcome=closing.outcome, route=Route.NONE)
            with suppress(TandemError):
                await asyncio.shield(self._own(self._close(closing, opening)))
            raise
        outcome = Outcome.ABSTAINED if answer.draft.abstained else Outcome.ANSWERED
        closing = Closing(
            answer_id=answer_id,
            principal=question.principal,
            outcome=outcome,
            answer=answer,
            steps=answer.steps,
            degraded=answer.degraded,
            drafts=run.drafts,
        )
        try:
            await self._timed_record(run, self._own(self._close(closing, opening)))
        except TandemError:
            self._count(policy.name, run=run, outcome=Outcome.FAILED, route=Route.NONE)
            raise
        self._count(policy.name, run=run, outcome=outcome, route=answer.draft.route)
        self._metrics.citations.inc(len(answer.draft.citations))
        answer = replace(answer, timings=run.timings())
        if self._observer is not None:
            self._observer.note(answer, tenant=question.principal.tenant, domain=question.domain.name)
        return answer

    async def _decided(
        self, answer_id: str, *, run: Run, policy: Policy, emit: Emit, opening: asyncio.Task[None]
    ) -> Answer:
        try:
            async with asyncio.timeout(run.budget.left()) as timer:
                await self._timed_record(run, opening)
                await emit(Started(answer_id, policy.name, run.rewritten, run.domain.name))
                draft = await policy.decide(run)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the deadline passed before the answer was made") from None
        except (PartDown, NoAdapter) as error:
            raise refusal(error) from error
        return Answer(
            answer_id=answer_id,
            policy=policy.name,
            rewritten_question=run.rewritten,
            draft=run.finished(draft),
            steps=run.steps,
            degraded=tuple(run.degraded),
            usage=run.usage,
            timings=run.timings(),
            domain=run.domain.name,
            scope=run.located,
            cost=run.cost,
        )

    async def _timed_record(self, run: Run, record: asyncio.Task[None]) -> None:
        start = time.perf_counter()
        with self._tracer.start_as_current_span("router.audit", record_exception=False):
            try:
                # A record that was begun is finished even when the caller leaves.
                await asyncio.shield(record)
            finally:
                run.stages.note("audit", time.perf_counter() - start)

    async def _close(self, closing: Closing, opening: asyncio.Task[None]) -> None:
        await asyncio.wait({opening})
        if opening.exception() is not None:
            return
        await self._ports.audit.close(closing)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._records.add(task)
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._records.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("audit record not written", extra={"error": type(error).__name__})

    def _count(self, policy: str, *, run: Run, outcome: Outcome, route: Route) -> None:
        self._metrics.answers.labels(policy, route.value, outcome.value).inc()
        if run.located is not None and run.located.inside is not None:
            self._metrics.scope.labels("inside" if run.located.inside else "outside").inc()
        for timing in run.timings():
            self._metrics.stage_seconds.labels(timing.stage).observe(timing.seconds)
        for component in {note.component for note in run.degraded}:
            self._metrics.degraded.labels(component).inc()


def _failed(answer_id: str, run: Run, error: BaseException) -> Closing:
    cancelled = isinstance(error, asyncio.CancelledError)
    code = "CANCELLED" if cancelled else error.code if isinstance(error, TandemError) else "INTERNAL"
    return Closing(
        answer_id=answer_id,
        principal=run.question.principal,
        outcome=Outcome.CANCELLED if cancelled else Outcome.FAILED,
        steps=run.steps,
        degraded=tuple(run.degraded),
        drafts=run.drafts,
        error_code=code,
        error_reason=error.reason if isinstance(error, TandemError) else code,
    )
