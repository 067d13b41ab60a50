"""The spool under crashes: whatever step is the last one, what was promised is there at the next start."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.domain import Header, Unreadable
from services.retriever.domain.jobs import Job, JobState
from services.retriever.domain.uploads import Result, State, Upload
from services.retriever.jobs.disk import Disk
from services.retriever.jobs.spool import Entry, Spool
from tandem.errors import ConfigError, DataLoss, Internal, InvalidInput, PermissionDenied
from tandem.security import Principal

ERIN = Principal("erin", "halden", frozenset({"leads"}), frozenset({"editor"}))
HEADER = Header("a.md", "text/markdown", "T", groups=("leads",), valid_from=1, valid_until=2, attributes={"k": "v\n"})


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Crash(Exception):
    pass


class Dying(Disk):
    """Dies at one of its changes: before it, half way through it, or after it; nothing works from then on."""

    def __init__(self, last: int, when: str) -> None:
        self._left = last
        self._when = when

    def _change(self, whole: Callable[[], None], half: Callable[[], None]) -> None:
        self._left -= 1
        if self._left > 0:
            whole()
            return
        if self._left == 0:
            {"before": lambda: None, "half": half, "after": whole}[self._when]()
        raise Crash

    def make(self, folder: Path) -> None:
        if not folder.is_dir():
            self._change(lambda: super(Dying, self).make(folder), lambda: super(Dying, self).make(folder.parent))

    def write(self, path: Path, *pieces: bytes) -> None:
        data = b"".join(pieces)
        self._change(
            lambda: super(Dying, self).write(path, data), lambda: super(Dying, self).write(path, data[: len(data) // 2])
        )

    def append(self, path: Path, line: bytes) -> None:
        self._change(
            lambda: super(Dying, self).append(path, line),
            lambda: super(Dying, self).append(path, line[: len(line) // 2]),
        )

    def cut(self, path: Path, size: int) -> None:
        self._change(lambda: super(Dying, self).cut(path, size), lambda: None)

    def move(self, source: Path, target: Path) -> None:
        self._change(lambda: super(Dying, self).move(source, target), lambda: None)

    def remove(self, path: Path) -> None:
        def half() -> None:
            if path.is_dir():
                for inner in sorted(path.iterdir())[::2]:
                    super(Dying, self).remove(inner)

        self._change(lambda: super(Dying, self).remove(path), half)


def upload(number: int) -> Upload:
    return Upload(f"d{number}", HEADER, b"line\n\x00" * number, appeared=float(number))


def result(number: int) -> Result:
    return Result(f"d{number}", list(State)[number % 3], "ab", num_chunks=number)


@dataclass
class Promise:
    """Is what a job has promised; the step under way when the process died may be done or not."""

    size: int
    results: int = 0
    state: JobState = JobState.RUNNING
    ending: JobState | None = None
    going: bool = False


@dataclass
class House:
    """Runs steps on a spool, notes what they promise, and dies when the disk does."""

    folder: Path
    promises: dict[str, Promise] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    number: int = 0
    unknown: str = ""

    def live(self, disk: Disk, steps: list[tuple[str, int]]) -> None:
        spool = Spool(self.folder, disk)
        try:
            self.entries = {entry.job.job_id: entry for entry in spool.open()}
            for step, choice in steps:
                getattr(self, f"_{step}")(spool, choice)
        except Crash:
            pass
        finally:
            spool.close()

    def _create(self, spool: Spool, size: int) -> None:
        self.number += 1
        job = Job(f"{self.number:04x}", ERIN, num_documents=size, create_time=self.number)
        draft = spool.draft(job.job_id)
        self.unknown = job.job_id
        for number in range(size):
            spool.add(draft, upload(number))
        self.entries[job.job_id] = spool.commit(draft, job)
        self.promises[job.job_id] = Promise(size)
        self.unknown = ""

    def _chosen(self, choice: int, *, running: bool) -> str | None:
        ids = [i for i, p in self.promises.items() if not p.going and (p.state is JobState.RUNNING) == running]
        return ids[choice % len(ids)] if ids else None

    def _record(self, spool: Spool, choice: int) -> None:
        job_id = self._chosen(choice, running=True)
        if job_id and self.promises[job_id].results < self.promises[job_id].size:
            spool.record(self.entries[job_id], result(self.promises[job_id].results))
            self.promises[job_id].results += 1

    def _end(self, spool: Spool, choice: int) -> None:
        if job_id := self._chosen(choice, running=True):
            promise = self.promises[job_id]
            promise.ending = JobState.FINISHED if promise.results == promise.size else JobState.CANCELLED
            spool.end(self.entries[job_id], promise.ending, 99)
            promise.state = promise.ending

    def _remove(self, spool: Spool, choice: int) -> None:
        if job_id := self._chosen(choice, running=False):
            self.promises[job_id].going = True
            spool.remove(self.entries[job_id])

    def check(self) -> None:
        """Opens the spool as the next start does and compares it with what was promised."""
        spool = Spool(self.folder)
        entries = {entry.job.job_id: entry for entry in spool.open()}
        assert not list((self.folder / "incoming").iterdir())
        kept = {job_id for job_id, promise in self.promises.items() if not promise.going}
        assert kept <= entries.keys() <= self.promises.keys() | {self.unknown}
        for job_id in kept:
            self._check(spool, entries[job_id], self.promises[job_id])
        spool.close()

    def _check(self, spool: Spool, entry: Entry, promise: Promise) -> None:
        job = entry.job
        assert (job.principal, job.num_documents) == (ERIN, promise.size)
        assert job.state in (promise.state, promise.ending)
        assert promise.results <= job.num_results <= promise.results + (promise.ending is None)
        rows = list(spool.results(entry, offset=0))
        assert [row for row, _ in rows] == [result(number) for number in range(job.num_results)]
        names = {path.name for path in entry.folder.iterdir()} - {"job.json", "results"}
        if job.state is JobState.RUNNING:
            assert [spool.document(entry, n) for n in entry.waiting] == [upload(n) for n in entry.waiting]
            assert names == {f"{number:08d}" for number in entry.waiting}
        else:
            assert (names, entry.num_bytes, job.end_time) == (set(), 0, 99)
        for number in entry.waiting if job.state is JobState.RUNNING else ():  # and it goes on where it stood
            spool.record(entry, result(number))
        assert [row for row, _ in spool.results(entry, offset=0)] == [result(n) for n in range(entry.job.num_results)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["record", "record", "record", "end", "remove"]), st.integers(0, 9)),
    ),
    max_size=14,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, STEPS, st.integers(1, 60), st.sampled_from(["before", "half", "after"]))
def test_what_was_promised_survives_a_crash_at_any_step(
    first: list[tuple[str, int]], second: list[tuple[str, int]], last: int, when: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder) / "spool")
        house.live(Disk(), [("create", 3), *first])
        house.live(Dying(last, when), second)
        house.check()


def test_a_crash_at_each_step_of_one_life(tmp_path: Path) -> None:
    steps = [("create", 3), ("record", 0), ("record", 0), ("create", 1), ("end", 1), ("record", 0), ("end", 0)]
    steps += [("remove", 0)]
    for when in ("before", "half", "after"):
        for last in range(1, 45):
            house = House(tmp_path / f"{when}{last}")
            house.live(Dying(last, when), steps)
            house.check()


def test_everything_is_synced_before_a_job_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda d: synced.append(Path(os.readlink(f"/proc/self/fd/{d}")).name))
    moved: list[int] = []
    plain = Path.replace

    def replace(source: Path, target: Path) -> Path:
        moved.append(len(synced))
        return plain(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    spool = Spool(tmp_path / "spool")
    spool.open()
    synced.clear()
    draft = spool.draft("0a")
    spool.add(draft, upload(1))
    entry = spool.commit(draft, Job("0a", ERIN, num_documents=1, create_time=1))
    assert {"00000000", "job.json", "0a"} <= set(synced[: moved[0]])
    assert synced[moved[0] :] == [entry.folder.parent.name]
    synced.clear()
    spool.record(entry, result(0))
    assert synced == ["results", "0a"]
    spool.close()


def test_a_spool_serves_one_process_and_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.open()
    with pytest.raises(ConfigError, match="RETRIEVER_SPOOL_DIR"):
        Spool(tmp_path / "spool").open()
    spool.close()
    again = Spool(tmp_path / "spool")
    again.open()
    again.close()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use"):
        Spool(tmp_path / "file" / "spool").open()


def test_faults_come_back_as_they_were_and_lost_bytes_are_a_fault(tmp_path: Path) -> None:
    faults = (
        Unreadable("TOO_LARGE", "more than that"),
        InvalidInput.of("header.title", "is odd"),
        PermissionDenied("no", reason="DOCUMENT_NOT_VISIBLE"),
        Internal("bug"),
    )
    spool = Spool(tmp_path / "spool")
    spool.open()
    draft = spool.draft("0a")
    for fault in faults:
        spool.add(draft, Upload("d", HEADER, b"", fault=fault))
    entry = spool.commit(draft, Job("0a", ERIN, num_documents=5, create_time=1))
    for number, fault in enumerate(faults):
        read = spool.document(entry, number).fault
        assert read is not None
        assert (read.code, read.reason, read.message) == (fault.code, fault.reason, fault.message)
        if isinstance(fault, InvalidInput):
            assert isinstance(read, InvalidInput)
            assert read.violations == fault.violations
    assert isinstance(spool.document(entry, 4).fault, DataLoss)
    spool.close()


def test_a_line_that_could_not_be_written_whole_is_cut_before_the_next(tmp_path: Path) -> None:
    class Full(Disk):
        full = False

        def append(self, path: Path, line: bytes) -> None:
            super().append(path, line[:10] if self.full else line)
            if self.full:
                raise OSError(28, "No space left on device")

    disk = Full()
    spool = Spool(tmp_path / "spool", disk)
    spool.open()
    draft = spool.draft("0a")
    for number in range(2):
        spool.add(draft, upload(number))
    entry = spool.commit(draft, Job("0a", ERIN, num_documents=2, create_time=1))
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        spool.record(entry, result(0))
    assert entry.job.num_results == 0
    disk.full = False
    for number in range(2):
        spool.record(entry, result(number))
    rows = list(spool.results(entry, offset=0))
    assert [row for row, _ in rows] == [result(0), result(1)]
    assert list(spool.results(entry, offset=rows[0][1])) == rows[1:]
    for odd in (-1, 3, rows[1][1] + 1):
        with pytest.raises(ValueError):
            list(spool.results(entry, offset=odd))
    spool.close()
