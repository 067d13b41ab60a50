"""Works off the jobs: tenants take turns, and a tenant's own jobs go in the order of their creation.

That order makes the later of two versions of a document win. A turn is a bounded number of documents, so that a large
job delays other tenants' jobs by one turn at most.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from services.retriever.domain.jobs import JobState
from services.retriever.domain.uploads import Intake, Origin, Result, State, Timings, Upload
from services.retriever.jobs.spool import Entry, Spool
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    Overloaded,
    PermissionDenied,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.tasks import finished

log = logging.getLogger(__name__)

_TURN = 64  # documents
_ATTEMPTS = 3
_MAX_PAUSE_S = 30.0
# Faults of the house: what a job waits for as long as it takes. Any other is held against the document at its head.
_PASSING = (Unavailable, Overloaded, DeadlineExceeded, FailedPrecondition, PermissionDenied, Unauthenticated)


class Runner:
    """Runs turns of a bounded number of tenants at the same time."""

    def __init__(self, *, spool: Spool, intake: Intake, concurrency: int, metrics: RetrieverMetrics) -> None:
        self._spool = spool
        self._intake = intake
        self._concurrency = concurrency
        self._metrics = metrics
        # A tenant is in `queues` while it waits for its turn or has it, and in `turns` while it waits.
        self._queues: dict[str, deque[Entry]] = {}
        self._turns: asyncio.Queue[str] = asyncio.Queue()
        self._slices: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, tuple[int, int]] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._fault = ""

    def start(self) -> None:
        """Begins to work."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]

    async def stop(self) -> None:
        """Leaves the jobs as they stand; the next start goes on with them."""
        tasks = [*self._workers, *self._slices.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, entry: Entry) -> None:
        """Puts a job in line."""
        tenant = entry.job.principal.tenant
        if tenant in self._queues:
            self._queues[tenant].append(entry)
        else:
            self._queues[tenant] = deque([entry])
            self._turns.put_nowait(tenant)

    async def cancel(self, entry: Entry) -> None:
        """Ends a job; of the documents under way, one that is being written may still be."""
        job_id = entry.job.job_id
        gone = self._leaving.setdefault(job_id, asyncio.Event())
        try:
            if under_way := self._slices.get(job_id):
                under_way.cancel()
                await asyncio.wait({under_way})
            await self._end(entry, JobState.CANCELLED)
        finally:
            gone.set()
            self._leaving.pop(job_id, None)

    async def _work(self) -> None:
        failures = 0
        while True:
            tenant = await self._turns.get()
            queue = self._queues[tenant]
            failed = await self._turn(queue[0])
            if queue[0].job.state is not JobState.RUNNING:
                queue.popleft()
            if queue:
                self._turns.put_nowait(tenant)
            else:
                del self._queues[tenant]
            failures = failures + 1 if failed else 0
            if failed:
                await asyncio.sleep(min(_MAX_PAUSE_S, 2.0 ** (failures - 1)))

    async def _turn(self, entry: Entry) -> bool:
        """Takes in the next documents of a job, and returns whether something went wrong."""
        job_id = entry.job.job_id
        if gone := self._leaving.get(job_id):
            await gone.wait()
        if entry.job.state is not JobState.RUNNING:
            return False
        task = self._slices[job_id] = asyncio.create_task(self._slice(entry))
        try:
            await asyncio.wait({task})
            if task.cancelled():
                return False
            failure = task.exception()
            if failure is not None:
                await self._failed(entry, failure)
            elif self._fault:
                log.info("jobs go on", extra={"job": job_id})
                self._fault = ""
            return failure is not None
        finally:
            del self._slices[job_id]

    async def _slice(self, entry: Entry) -> None:
        async with aclosing(self._documents(entry)) as documents:
            taken_in = self._intake.run(entry.job.principal, documents, Timings(), origin=Origin.JOB)
            async with aclosing(taken_in) as results:
                async for result in results:
                    await self._record(entry, result)
        if not entry.waiting:
            await self._end(entry, JobState.FINISHED)

    async def _documents(self, entry: Entry) -> AsyncGenerator[Upload, None]:
        for number in entry.waiting[:_TURN]:
            yield await asyncio.to_thread(self._spool.document, entry, number)

    async def _record(self, entry: Entry, result: Result) -> None:
        before = entry.num_bytes
        try:
            await finished(asyncio.to_thread(self._spool.record, entry, result))
        except OSError as error:
            raise Unavailable(f"cannot write to the spool: {error.strerror}") from error
        self._attempts.pop(entry.job.job_id, None)
        self._metrics.spooled_bytes.dec(before - entry.num_bytes)
        self._metrics.job_documents_waiting.dec()

    async def _end(self, entry: Entry, state: JobState) -> None:
        if entry.job.state is not JobState.RUNNING:
            return
        waiting, size = len(entry.waiting), entry.num_bytes
        try:
            await finished(asyncio.to_thread(self._spool.end, entry, state, time.time_ns() // 1000))
        except OSError as error:
            raise Unavailable(f"cannot write to the spool: {error.strerror}") from error
        self._metrics.jobs.labels(state=state.value).inc()
        self._metrics.spooled_bytes.dec(size)
        self._metrics.job_documents_waiting.dec(waiting)

    async def _failed(self, entry: Entry, failure: BaseException) -> None:
        """Counts a failure that is not the house's against the document at the head, and gives that up at last."""
        if isinstance(failure, _PASSING):
            reason = f"{failure.reason}: {failure.message}"
        else:
            reason = type(failure).__name__
            with suppress(Unavailable):
                await self._count_against_the_head(entry)
        if reason != self._fault:
            known = failure if not isinstance(failure, TandemError) else None
            log.warning("jobs wait", extra={"job": entry.job.job_id, "reason": reason}, exc_info=known)
            self._fault = reason

    async def _count_against_the_head(self, entry: Entry) -> None:
        job_id, head = entry.job.job_id, entry.job.num_results
        number, attempts = self._attempts.get(job_id, (head, 0))
        attempts = attempts + 1 if number == head else 1
        self._attempts[job_id] = (head, attempts)
        if attempts >= _ATTEMPTS and head in entry.waiting:
            upload = await asyncio.to_thread(self._spool.document, entry, head)
            error = Internal("the document could not be taken in")
            await self._record(entry, Result(upload.document_id, State.REJECTED, "", error=error))
