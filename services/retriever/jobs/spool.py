"""The folder in which jobs wait.

    .owner                          locked while a retriever uses the folder
    incoming/<job>/                 an upload that is under way, or a job that is being removed: emptied at each start
    jobs/<tenant>/<job>/job.json    who created it and how it ended; counts are written when it has
                       /00000000    a document without a result: a line that describes it, then its bytes
                       /results     a line for each document that has one, in the order of arrival

A job comes to be, and goes, by the renaming of its folder. A document is removed once its result is in `results`: what
a crash leaves between the two is done again, which the content's hash makes cheap. Everything here blocks.
"""

import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.retriever.domain import Header
from services.retriever.domain.jobs import Job, JobState
from services.retriever.domain.uploads import Result, Upload
from services.retriever.jobs import records
from services.retriever.jobs.disk import Disk, folders, rounded, size_on_disk
from tandem.errors import ConfigError, DataLoss

log = logging.getLogger(__name__)


@dataclass
class Draft:
    """Is a job whose documents are arriving; num_bytes is what they take of the disk."""

    folder: Path
    num_documents: int = 0
    num_bytes: int = 0


@dataclass
class Entry:
    """Is a job on the disk. The lock is held while its files or its job change."""

    job: Job
    folder: Path
    num_bytes: int
    results_size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def results(self) -> Path:
        """The file of results."""
        return self.folder / "results"

    @property
    def waiting(self) -> range:
        """The numbers of the documents without a result."""
        return range(self.job.num_results, self.job.num_documents)


class Spool:
    """Keeps jobs on a disk; one process at a time."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self._disk = disk or Disk()
        self._lock: int | None = None

    def open(self) -> list[Entry]:
        """Takes the folder, clears up after a crash, and returns the jobs; raises ConfigError when it cannot."""
        try:
            self._disk.make(self._folder)
            self._lock = os.open(self._folder / ".owner", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._disk.remove(self._folder / "incoming")
            self._disk.make(self._folder / "incoming")
            return [entry for tenant in folders(self._folder / "jobs") for entry in self._entries(tenant)]
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"{self._folder} is in use by another process; give each retriever its own RETRIEVER_SPOOL_DIR"
            ) from None
        except OSError as error:
            self.close()
            raise ConfigError(f"RETRIEVER_SPOOL_DIR: cannot use {self._folder}: {error.strerror}") from error

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def draft(self, job_id: str) -> Draft:
        """Begins a job."""
        return Draft(self._folder / "incoming" / job_id)

    def add(self, draft: Draft, upload: Upload) -> None:
        """Writes the next document."""
        self._disk.make(draft.folder)
        head = records.dump_head(upload)
        self._disk.write(draft.folder / _name(draft.num_documents), head, upload.data)
        draft.num_documents += 1
        draft.num_bytes += rounded(len(head) + len(upload.data))

    def commit(self, draft: Draft, job: Job) -> Entry:
        """Makes the draft a job that survives."""
        self._disk.make(draft.folder)
        self._disk.write(draft.folder / "job.json", records.dump_job(job))
        tenant = self._folder / "jobs" / hashlib.sha256(job.principal.tenant.encode()).hexdigest()[:32]
        self._disk.make(tenant)
        folder = tenant / job.job_id
        self._disk.move(draft.folder, folder)
        return Entry(job=job, folder=folder, num_bytes=draft.num_bytes)

    def discard(self, draft: Draft) -> None:
        """Removes a draft that did not become a job; what cannot be removed now goes at the next start."""
        with suppress(OSError):
            self._disk.remove(draft.folder)

    def document(self, entry: Entry, number: int) -> Upload:
        """Returns a document without a result; one that cannot be read any more comes with that as its fault."""
        try:
            return records.load_document((entry.folder / _name(number)).read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("a spooled document cannot be read", extra={"job": entry.job.job_id, "error": repr(error)})
            lost = DataLoss("the spooled document cannot be read any more; hand it in again")
            return Upload(document_id="", header=Header(source="", media_type=""), data=b"", fault=lost)

    def record(self, entry: Entry, result: Result) -> None:
        """Adds the next document's result and removes the document; does nothing once the job has ended."""
        with entry.lock:
            if entry.job.state is not JobState.RUNNING:
                return
            line = records.dump_result(result)
            if entry.results.exists() and entry.results.stat().st_size > entry.results_size:
                self._disk.cut(entry.results, entry.results_size)  # of a line that could not be written whole
            self._disk.append(entry.results, line)
            document = entry.folder / _name(entry.job.num_results)
            entry.results_size += len(line)
            entry.num_bytes -= size_on_disk(document)
            entry.job = entry.job.counting(result.state)
            self._disk.remove(document)

    def end(self, entry: Entry, state: JobState, moment: int) -> None:
        """Ends a running job; does nothing for one that has ended."""
        with entry.lock:
            if entry.job.state is not JobState.RUNNING:
                return
            ended = replace(entry.job, state=state, end_time=moment)
            scratch = entry.folder / "job.new"
            self._disk.write(scratch, records.dump_job(ended))
            self._disk.move(scratch, entry.folder / "job.json")
            entry.job = ended
            self._clear(entry)

    def remove(self, entry: Entry) -> None:
        """Removes a job that has ended."""
        with entry.lock:
            gone = self._folder / "incoming" / entry.job.job_id
            self._disk.move(entry.folder, gone)
            self._disk.remove(gone)

    def results(self, entry: Entry, *, offset: int) -> Iterator[tuple[Result, int]]:
        """Yields the results from an offset on, each with the offset after it; raises ValueError for no offset."""
        limit = entry.results_size
        if not 0 <= offset <= limit:
            raise ValueError("offset")
        if offset == limit:
            return
        with entry.results.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    raise ValueError("offset")
            while offset < limit:
                line = file.readline()
                offset += len(line)
                yield records.load_result(line), offset

    def _entries(self, tenant: Path) -> Iterator[Entry]:
        for folder in folders(tenant):
            try:
                job = records.load_job((folder / "job.json").read_bytes())
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("a job cannot be read and is left alone", extra={"job": folder.name, "error": repr(error)})
                continue
            entry = Entry(job=job, folder=folder, num_bytes=0)
            self._recover(entry)
            yield entry

    def _recover(self, entry: Entry) -> None:
        """Counts the results that are whole and drops what they, or the job's end, made needless."""
        whole = entry.results.read_bytes() if entry.results.exists() else b""
        entry.results_size = whole.rfind(b"\n") + 1
        if entry.results_size < len(whole):
            self._disk.cut(entry.results, entry.results_size)
        if entry.job.state is JobState.RUNNING:
            for line in whole[: entry.results_size].splitlines():
                entry.job = entry.job.counting(records.load_result(line).state)
        self._clear(entry)

    def _clear(self, entry: Entry) -> None:
        running = entry.job.state is JobState.RUNNING
        wanted = {_name(number) for number in entry.waiting} if running else set()
        for path in entry.folder.iterdir():
            if path.name not in wanted and path.name not in ("job.json", "results"):
                self._disk.remove(path)
        entry.num_bytes = sum(size_on_disk(entry.folder / name) for name in wanted)


def _name(number: int) -> str:
    return f"{number:08d}"
