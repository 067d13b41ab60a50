"""The jobs of all tenants: taken in, told of, cancelled, and forgotten in time."""

import asyncio
import errno
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

from services.retriever.domain.jobs import Job, JobState
from services.retriever.domain.uploads import Result, State, Upload
from services.retriever.jobs.runner import Runner
from services.retriever.jobs.spool import Draft, Entry, Spool
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import InvalidInput, NotFound, Overloaded, Unavailable
from tandem.security import Principal
from tandem.tasks import finished

log = logging.getLogger(__name__)

_SWEEP_S = 3600.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class JobLimits:
    """Bounds uploads at once, and of one tenant the jobs (running and ended, each), bytes on disk and days kept."""

    uploads: int
    jobs: int
    bytes: int
    keep_days: float


class Jobs:
    """Keeps the jobs of this process's spool. A job of another tenant does not exist for a caller."""

    def __init__(self, *, spool: Spool, runner: Runner, limits: JobLimits, metrics: RetrieverMetrics) -> None:
        self._spool = spool
        self._runner = runner
        self._limits = limits
        self._metrics = metrics
        self._tenants: dict[str, dict[str, Entry]] = {}
        self._drafts: dict[str, tuple[str, Draft]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up the jobs that are on the disk; raises ConfigError when the disk cannot be used."""
        entries = await asyncio.to_thread(self._spool.open)
        for entry in sorted(entries, key=lambda entry: entry.job.job_id):
            self._admit(entry)
        running = Counter(entry.job.state for entry in entries)[JobState.RUNNING]
        if running:
            log.info("going on with jobs", extra={"jobs": running})
        self._runner.start()
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        """Leaves the jobs to the next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait({self._sweeper})
        await self._runner.stop()
        await asyncio.to_thread(self._spool.close)

    async def create(self, principal: Principal, uploads: AsyncIterator[Upload]) -> Job:
        """Returns the job when its documents are safe on the disk; raises Overloaded when there is no room."""
        if len(self._drafts) >= self._limits.uploads:
            raise Overloaded("too many jobs are being handed in", retry_after_s=5.0)
        job_id = f"{time.time_ns() // 1000:016x}{secrets.token_hex(4)}"
        draft = self._spool.draft(job_id)
        self._drafts[job_id] = (principal.tenant, draft)
        try:
            await self.sweep()
            await self._make_room(principal.tenant)
            async for upload in uploads:
                await finished(asyncio.to_thread(self._spool.add, draft, upload))
                await self._make_room(principal.tenant)
            job = Job(job_id, principal, num_documents=draft.num_documents, create_time=time.time_ns() // 1000)
            return await finished(self._commit(draft, job))
        except OSError as error:
            if error.errno in _FULL:
                raise Overloaded("the disk of the spool is full", retry_after_s=60.0, reason="SPOOL_FULL") from error
            raise Unavailable(f"cannot write to the spool: {error.strerror}") from error
        finally:
            if self._drafts.pop(job_id, None):
                await finished(asyncio.to_thread(self._spool.discard, draft))

    def get(self, principal: Principal, job_id: str) -> Job:
        """Returns a job as it stands; raises NotFound."""
        return self._entry(principal, job_id).job

    def page(self, principal: Principal, *, before: str, limit: int) -> list[Job]:
        """Returns the newest jobs of the caller's tenant, older than the one named `before` unless that is empty."""
        entries = self._tenants.get(principal.tenant, {})
        ids = sorted((job_id for job_id in entries if not before or job_id < before), reverse=True)
        return [entries[job_id].job for job_id in ids[:limit]]

    async def results(
        self, principal: Principal, job_id: str, *, offset: int, limit: int, rejected_only: bool
    ) -> list[tuple[Result, int]]:
        """Returns results from an offset on, each with the offset after it; raises NotFound, InvalidInput."""
        entry = self._entry(principal, job_id)

        def read() -> list[tuple[Result, int]]:
            rows = self._spool.results(entry, offset=offset)
            return list(islice((row for row in rows if not rejected_only or row[0].state is State.REJECTED), limit))

        try:
            return await asyncio.to_thread(read)
        except FileNotFoundError:
            raise NotFound(f"there is no job {job_id!r}") from None
        except ValueError:
            raise InvalidInput.of("page_token", "is not one that this service gave") from None

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Ends a job and returns it; one that has ended stays as it is."""
        entry = self._entry(principal, job_id)
        if entry.job.state is JobState.RUNNING:
            await self._runner.cancel(entry)
        return entry.job

    def _entry(self, principal: Principal, job_id: str) -> Entry:
        try:
            return self._tenants[principal.tenant][job_id]
        except KeyError:
            raise NotFound(f"there is no job {job_id[:64]!r}") from None

    async def _commit(self, draft: Draft, job: Job) -> Job:
        entry = await asyncio.to_thread(self._spool.commit, draft, job)
        del self._drafts[job.job_id]
        self._admit(entry)
        return entry.job

    def _admit(self, entry: Entry) -> None:
        self._tenants.setdefault(entry.job.principal.tenant, {})[entry.job.job_id] = entry
        if entry.job.state is JobState.RUNNING:
            self._metrics.spooled_bytes.inc(entry.num_bytes)
            self._metrics.job_documents_waiting.inc(len(entry.waiting))
            self._runner.add(entry)

    async def _make_room(self, tenant: str) -> None:
        """Forgets ended jobs as far as the tenant's share of the disk asks for it; raises Overloaded beyond that."""
        entries = self._tenants.get(tenant, {})
        drafts = [draft for owner, draft in self._drafts.values() if owner == tenant]
        running = [entry for entry in entries.values() if entry.job.state is JobState.RUNNING]
        if len(running) + len(drafts) > self._limits.jobs:
            raise Overloaded(
                f"{len(running)} jobs of the tenant are running; wait for one to end", retry_after_s=30.0,
                reason="TOO_MANY_JOBS",
            )  # fmt: skip
        over = sum(entry.num_bytes + entry.results_size for entry in entries.values()) - self._limits.bytes
        over += sum(draft.num_bytes for draft in drafts)
        if over <= 0:
            return
        for entry in self._ended(tenant):
            if over > 0:
                over -= entry.results_size
                await self._forget(entry)
        if over > 0:
            raise Overloaded(
                f"the tenant's jobs hold all of the {self._limits.bytes >> 20} MiB that they may; hand in less at a "
                "time, or wait until they have gone on",
                retry_after_s=30.0,
                reason="SPOOL_FULL",
            )

    def _ended(self, tenant: str) -> list[Entry]:
        """Returns the tenant's ended jobs, the oldest first."""
        entries = self._tenants.get(tenant, {}).values()
        return sorted((e for e in entries if e.job.end_time is not None), key=lambda e: e.job.end_time or 0)

    async def sweep(self) -> None:
        """Forgets jobs that ended too long ago, and the oldest where there are too many."""
        latest = (time.time() - self._limits.keep_days * 86400) * 1e6
        for tenant in list(self._tenants):
            ended = self._ended(tenant)
            for place, entry in enumerate(ended):
                if len(ended) - place > self._limits.jobs or (entry.job.end_time or 0) < latest:
                    await self._forget(entry)

    async def _forget(self, entry: Entry) -> None:
        tenant = entry.job.principal.tenant
        if self._tenants.get(tenant, {}).pop(entry.job.job_id, None) is None:
            return
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        try:
            await finished(asyncio.to_thread(self._spool.remove, entry))
        except OSError as error:
            log.warning("an ended job cannot be removed", extra={"job": entry.job.job_id, "error": str(error)})

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_S)
