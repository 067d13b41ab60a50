import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.retriever.domain.jobs import Job, JobState
from services.retriever.domain.uploads import Origin, Result, State, Upload
from services.retriever.jobs import runner as runner_module
from services.retriever.jobs.registry import JobLimits, Jobs
from services.retriever.jobs.runner import Runner
from services.retriever.jobs.spool import Spool
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import InvalidInput, NotFound, Overloaded, Unavailable
from tandem.security import Principal
from tests.fakes.intake import FakeIntake, upload

ERIN = Principal("erin", "halden", frozenset({"leads"}), frozenset({"editor"}))
BEA = Principal("bea", "brightwater", frozenset(), frozenset({"editor"}))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(runner_module, "_MAX_PAUSE_S", 0.001)


class Room:
    """Is a jobs room on a folder, begun again as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.intake = FakeIntake()
        self.registry = CollectorRegistry()

    @asynccontextmanager
    async def open(
        self, *, jobs: int = 10, size: int = 1 << 20, days: float = 7.0, uploads: int = 4, concurrency: int = 2
    ) -> AsyncIterator[Jobs]:
        self.registry = CollectorRegistry()
        metrics = RetrieverMetrics(self.registry)
        spool = Spool(self.folder)
        runner = Runner(spool=spool, intake=self.intake, concurrency=concurrency, metrics=metrics)
        limits = JobLimits(uploads=uploads, jobs=jobs, bytes=size, keep_days=days)
        room = Jobs(spool=spool, runner=runner, limits=limits, metrics=metrics)
        await room.start()
        try:
            yield room
        finally:
            await room.stop()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file() and path.name != ".owner")

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"tandem_retriever_{name}", labels)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "spool")


async def arriving(*uploads: Upload) -> AsyncIterator[Upload]:
    for item in uploads:
        yield item


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- what is waited for happens in threads
            await asyncio.sleep(0.001)


async def ended(jobs: Jobs, job: Job, principal: Principal = ERIN) -> Job:
    await until(lambda: jobs.get(principal, job.job_id).state is not JobState.RUNNING)
    return jobs.get(principal, job.job_id)


async def results(jobs: Jobs, job: Job, **wish: object) -> list[tuple[Result, int]]:
    wanted = {"offset": 0, "limit": 1000, "rejected_only": False, **wish}
    return await jobs.results(ERIN, job.job_id, **wanted)  # type: ignore[arg-type]


async def test_a_job_takes_its_documents_in_and_tells_of_each(room: Room) -> None:
    odd = Upload("odd", upload("odd").header, b"", fault=InvalidInput.of("title", "is odd"))
    async with room.open() as jobs:
        room.intake.gate.clear()
        job = await jobs.create(ERIN, arriving(upload("a"), odd, upload("b"), upload("a")))
        assert (job.state, job.num_documents, job.num_results, job.principal) == (JobState.RUNNING, 4, 0, ERIN)
        assert room.value("job_documents_waiting") == 4
        assert room.value("spooled_bytes") == 4 * 4096
        room.intake.gate.set()
        job = await ended(jobs, job)
        assert (job.num_indexed, job.num_unchanged, job.num_rejected) == (2, 1, 1)
        rows = await results(jobs, job)
        assert [(row.document_id, row.state.value) for row, _ in rows] == [
            ("a", "indexed"), ("odd", "rejected"), ("b", "indexed"), ("a", "unchanged")
        ]  # fmt: skip
        assert [row.document_id for row, _ in await results(jobs, job, rejected_only=True)] == ["odd"]
        assert [end for _, end in await results(jobs, job, offset=rows[0][1], limit=2)] == [rows[1][1], rows[2][1]]
        with pytest.raises(InvalidInput, match="page_token"):
            await results(jobs, job, offset=3)
        assert room.files() == ["job.json", "results"]
        assert room.intake.origins == [Origin.JOB]
        assert [room.value("job_documents_waiting"), room.value("spooled_bytes")] == [0, 0]
        assert room.value("jobs_total", state="finished") == 1
        assert (await ended(jobs, await jobs.create(ERIN, arriving()))).num_documents == 0


async def test_a_job_goes_on_after_a_restart_where_it_stood(room: Room) -> None:
    async with room.open() as jobs:
        room.intake.fault = None
        many = [upload(f"d{n:03}") for n in range(150)]
        room.intake.gate.clear()
        job = await jobs.create(ERIN, arriving(*many))
        room.intake.gate.set()
        await until(lambda: jobs.get(ERIN, job.job_id).num_results >= 70)
        room.intake.gate.clear()
    done = len(room.intake.taken)
    async with room.open() as jobs:
        stood = jobs.get(ERIN, job.job_id)
        assert 70 <= stood.num_results <= done < 150
        assert stood.principal == ERIN
        room.intake.gate.set()
        job = await ended(jobs, job)
        assert job.num_indexed + job.num_unchanged == 150
        assert [row.document_id for row, _ in await results(jobs, job)] == [item.document_id for item in many]
        assert len(room.intake.taken) <= 150 + done - stood.num_results
    async with room.open() as jobs:
        assert jobs.get(ERIN, job.job_id) == job


async def test_another_tenant_has_no_such_job(room: Room) -> None:
    async with room.open() as jobs:
        job = await jobs.create(ERIN, arriving(upload("a")))
        for call in (
            jobs.cancel(BEA, job.job_id),
            jobs.results(BEA, job.job_id, offset=0, limit=1, rejected_only=False),
        ):
            with pytest.raises(NotFound):
                await call
        for odd in (job.job_id + "0", "../halden", ""):
            with pytest.raises(NotFound):
                jobs.get(ERIN, odd)
        assert jobs.page(BEA, before="", limit=9) == []
        otto = Principal("otto", "halden", frozenset(), frozenset({"editor"}))
        assert (await ended(jobs, job, otto)).principal.subject == "erin"


async def test_jobs_are_paged_the_newest_first(room: Room) -> None:
    async with room.open() as jobs:
        ids = [(await jobs.create(ERIN, arriving(upload("a")))).job_id for _ in range(5)][::-1]
        assert [job.job_id for job in jobs.page(ERIN, before="", limit=2)] == ids[:2]
        assert [job.job_id for job in jobs.page(ERIN, before=ids[1], limit=9)] == ids[2:]


async def test_tenants_take_turns_and_a_tenants_jobs_keep_their_order(room: Room) -> None:
    async with room.open(concurrency=1) as jobs:
        room.intake.gate.clear()
        big = await jobs.create(ERIN, arriving(*(upload(f"d{n}") for n in range(200))))
        later = await jobs.create(ERIN, arriving(upload("d0", "the later version")))
        small = await jobs.create(BEA, arriving(upload("b")))
        room.intake.gate.set()
        await ended(jobs, small, BEA)
        assert jobs.get(ERIN, big.job_id).state is JobState.RUNNING
        assert room.intake.taken.index(("brightwater", "b")) == 64
        await ended(jobs, later)
        assert jobs.get(ERIN, big.job_id).state is JobState.FINISHED
        assert room.intake.taken[-1] == ("halden", "d0")


async def test_cancelling_ends_a_job_at_once_and_keeps_what_was_done(room: Room) -> None:
    async with room.open(concurrency=1) as jobs:
        room.intake.gate.clear()
        first = await jobs.create(ERIN, arriving(*(upload(f"d{n}") for n in range(9))))
        second = await jobs.create(ERIN, arriving(upload("x")))
        third = await jobs.create(ERIN, arriving(upload("y")))
        await until(lambda: bool(room.intake.num_runs))
        for job in (first, second):
            gone = await jobs.cancel(ERIN, job.job_id)
            assert gone.state is JobState.CANCELLED
            assert gone.end_time is not None
        room.intake.gate.set()
        assert (await ended(jobs, third)).state is JobState.FINISHED
        assert room.intake.taken == [("halden", "y")]
        assert (await jobs.cancel(ERIN, third.job_id)).state is JobState.FINISHED
        assert room.value("jobs_total", state="cancelled") == 2
        assert [room.value("job_documents_waiting"), room.value("spooled_bytes")] == [0, 0]
        assert not [name for name in room.files() if name.startswith("0")]
    async with room.open() as jobs:
        assert jobs.get(ERIN, first.job_id).state is JobState.CANCELLED


async def test_a_fault_of_the_house_is_waited_for_and_told_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with room.open() as jobs:
        room.intake.fault = Unavailable("no embedder")
        job = await jobs.create(ERIN, arriving(upload("a"), upload("b")))
        await until(lambda: room.intake.num_runs >= 6)
        assert jobs.get(ERIN, job.job_id).num_results == 0
        room.intake.fault = None
        assert (await ended(jobs, job)).num_indexed == 2
        told = ["jobs wait", "jobs go on"]
        await until(lambda: [r.message for r in caplog.records if "jobs" in r.message] == told)


async def test_a_document_that_breaks_the_pipeline_is_given_up_and_no_other(room: Room) -> None:
    async with room.open() as jobs:
        room.intake.bug = b"poison"
        job = await jobs.create(ERIN, arriving(upload("a"), upload("b", "poison"), upload("c")))
        job = await ended(jobs, job)
        rows = [row for row, _ in await results(jobs, job)]
        assert [row.state for row in rows] == [State.INDEXED, State.REJECTED, State.INDEXED]
        assert rows[1].document_id == "b"
        assert rows[1].error is not None
        assert rows[1].error.code == "INTERNAL"


async def test_a_tenant_has_its_share_of_jobs_and_of_the_disk_and_no_more(room: Room) -> None:
    async with room.open(jobs=2, size=5 * 4096) as jobs:
        room.intake.gate.clear()
        for name in ("a", "b"):
            await jobs.create(ERIN, arriving(upload(name)))
        with pytest.raises(Overloaded, match="2 jobs") as caught:
            await jobs.create(ERIN, arriving(upload("c")))
        assert caught.value.retry_after_s > 0
        with pytest.raises(Overloaded, match="hand in less") as caught:
            await jobs.create(BEA, arriving(*(upload(f"d{n}") for n in range(9))))
        assert caught.value.reason == "SPOOL_FULL"
        assert len([name for name in room.files() if name.startswith("0")]) == 2
        room.intake.gate.set()
        await ended(jobs, await jobs.create(BEA, arriving(*(upload(f"d{n}") for n in range(5)))), BEA)


async def test_ended_jobs_make_room_and_are_forgotten_in_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room.open(jobs=3) as jobs:
        ids = []
        for _ in range(5):
            ids.append((await ended(jobs, await jobs.create(ERIN, arriving(upload("a"))))).job_id)
        await jobs.sweep()
        assert [job.job_id for job in jobs.page(ERIN, before="", limit=9)] == ids[:1:-1]
        week = time.time() + 8 * 86400
        monkeypatch.setattr(time, "time", lambda: week)
        await jobs.sweep()
        assert jobs.page(ERIN, before="", limit=9) == []
        assert room.files() == []


async def test_results_of_old_jobs_give_way_to_new_documents(room: Room) -> None:
    async with room.open(size=3 * 4096) as jobs:
        old = await ended(jobs, await jobs.create(ERIN, arriving(upload("a"))))
        room.intake.gate.clear()
        await jobs.create(ERIN, arriving(upload("a"), upload("b"), upload("c")))
        with pytest.raises(NotFound):
            jobs.get(ERIN, old.job_id)


async def test_who_leaves_during_the_upload_leaves_nothing(room: Room) -> None:
    async with room.open(uploads=1) as jobs:
        never = asyncio.Event()

        async def halting() -> AsyncIterator[Upload]:
            yield upload("a")
            await never.wait()

        task = asyncio.create_task(jobs.create(ERIN, halting()))
        await until(lambda: bool(room.files()))
        with pytest.raises(Overloaded, match="handed in"):
            await jobs.create(ERIN, arriving())
        task.cancel()
        await asyncio.wait({task})
        assert room.files() == []
        assert jobs.page(ERIN, before="", limit=9) == []
        await ended(jobs, await jobs.create(ERIN, arriving(upload("b"))))
