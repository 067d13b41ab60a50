"""Shows a tenant's records and verifies every chain."""

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, select
from sqlalchemy.exc import SQLAlchemyError

from services.router.audit.feedback import answer_of, feedback_of
from services.router.audit.paging import NEWEST_FIRST, after, token_of
from services.router.audit.records import CLOSED, GENESIS, OPENED, feedback_number, hash_record, timestamp
from services.router.audit.schema import heads, is_feedback, open_engine, records
from services.router.domain import AuditPage, AuditRecord, ChainReport
from services.router.domain.feedback import Feedback, FeedbackPage, JudgedAnswer
from tandem.errors import Cancelled, NotFound, Unavailable

T = TypeVar("T")
_COLUMNS = tuple(AuditRecord.__dataclass_fields__)
_ROWS = 500
_PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early here, so that it fits a message."""
_MAX_SCANNED = 5000
"""A page of one domain's feedback ends after so many entries, of whichever domain."""


class AuditReader:
    """Reads the log in threads, beside the writer; one verification runs at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._verifying = asyncio.Semaphore(1)

    def start(self) -> None:
        """Opens the database; raises ConfigError when that cannot be done."""
        self._engine = open_engine(self._url)

    def stop(self) -> None:
        """Closes the database."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    async def get(self, tenant: str, answer_id: str) -> tuple[AuditRecord, ...]:
        """Returns the records of one answer in their order; raises NotFound, also for another tenant's answer."""

        def read(connection: Connection) -> tuple[AuditRecord, ...]:
            query = select(records).where(records.c.answer_id == answer_id, records.c.tenant == tenant)
            found = [_record(row._asdict()) for row in connection.execute(query)]
            return tuple(sorted(found, key=_place))

        found = await self._in_thread(read)
        if not found:
            raise _no_answer(answer_id)
        return found

    async def judged(self, tenant: str, answer_id: str) -> JudgedAnswer:
        """Returns an answer with its feedback; raises NotFound, also for another tenant's answer."""
        answer = answer_of(await self.get(tenant, answer_id))
        if answer is None:
            raise _no_answer(answer_id)
        return answer

    async def feedback(self, tenant: str, *, domain: str, size: int, token: str) -> FeedbackPage:
        """Returns a page of the tenant's feedback, newest first; raises InvalidInput for a token that is not one."""
        query = select(records).where(records.c.tenant == tenant, is_feedback)
        if token:
            query = query.where(after(token))
        query = query.order_by(*NEWEST_FIRST)
        return await self._in_thread(lambda connection: _feedback_page(connection, query, domain=domain, size=size))

    async def newest_feedback(self, limit: int) -> tuple[Feedback, ...]:
        """Returns the newest feedback of all tenants, newest first."""
        query = select(records).where(is_feedback).order_by(*NEWEST_FIRST).limit(limit)

        def read(connection: Connection) -> tuple[Feedback, ...]:
            found = (feedback_of(_record(row._asdict())) for row in connection.execute(query))
            return tuple(feedback for feedback in found if feedback is not None)

        return await self._in_thread(read)

    async def page(
        self, tenant: str, *, size: int, token: str, start: datetime | None, end: datetime | None
    ) -> AuditPage:
        """Returns a page of the tenant's records, newest first; raises InvalidInput for a token that is not one."""
        query = select(records).where(records.c.tenant == tenant)
        if token:
            query = query.where(after(token))
        if start is not None:
            query = query.where(records.c.record_time >= timestamp(start))
        if end is not None:
            query = query.where(records.c.record_time < timestamp(end))
        query = query.order_by(*NEWEST_FIRST)

        return await self._in_thread(lambda connection: _page(connection, query, size))

    async def verify(self) -> tuple[ChainReport, ...]:
        """Recomputes every chain as it stands at one moment; a cancelled verification stops within some rows."""
        stop = threading.Event()
        async with self._verifying:
            try:
                return await self._in_thread(lambda connection: verify_chains(connection, stop))
            finally:
                stop.set()

    async def _in_thread(self, read: Callable[[Connection], T]) -> T:
        engine = self._engine
        if engine is None:
            raise Unavailable("the audit log is not open", reason="AUDIT_UNAVAILABLE")

        def work() -> T:
            with engine.connect() as connection:
                return read(connection)

        try:
            return await asyncio.to_thread(work)
        except SQLAlchemyError as error:
            raise Unavailable("the audit log cannot be read", reason="AUDIT_UNAVAILABLE") from error


def _page(connection: Connection, query: Select[Any], size: int) -> AuditPage:
    found: list[AuditRecord] = []
    num_bytes = 0
    for row in connection.execution_options(yield_per=50).execute(query.limit(size + 1)):
        record = _record(row._asdict())
        num_bytes += len(record.payload_json.encode("utf-8", "replace"))
        if found and (len(found) == size or num_bytes > _PAGE_BYTES):
            return AuditPage(tuple(found), token_of(found[-1]))
        found.append(record)
    return AuditPage(tuple(found))


def _feedback_page(connection: Connection, query: Select[Any], *, domain: str, size: int) -> FeedbackPage:
    """Returns the entries of the domain; the token is of the last that was looked at, whether it is one of them."""
    found: list[Feedback] = []
    num_bytes = 0
    last: AuditRecord | None = None
    rows = connection.execution_options(yield_per=50).execute(query.limit(_MAX_SCANNED + 1))
    for number, row in enumerate(rows):
        if last is not None and (len(found) == size or num_bytes > _PAGE_BYTES or number == _MAX_SCANNED):
            return FeedbackPage(tuple(found), token_of(last))
        last = _record(row._asdict())
        feedback = feedback_of(last)
        if feedback is not None and domain in ("", feedback.domain):
            found.append(feedback)
            num_bytes += len(last.payload_json.encode("utf-8", "replace"))
    return FeedbackPage(tuple(found))


def verify_chains(connection: Connection, stop: threading.Event | None = None) -> tuple[ChainReport, ...]:
    """Streams every record past its expected place and hash, and reports the first fault of each chain."""
    kept = {row.writer: (row.sequence, row.hash) for row in connection.execute(select(heads))}
    query = select(records).order_by(records.c.writer, records.c.sequence)
    rows = connection.execution_options(yield_per=_ROWS).execute(query)
    reports: dict[str, ChainReport] = {}
    chain: _Chain | None = None
    for number, row in enumerate(rows):
        if number % _ROWS == 0 and stop is not None and stop.is_set():
            raise Cancelled("the verification was given up")
        record = _record(row._asdict())
        if chain is None or chain.writer != record.writer:
            if chain is not None:
                reports[chain.writer] = chain.report(kept.get(chain.writer))
            chain = _Chain(record.writer)
        chain.check(record)
    if chain is not None:
        reports[chain.writer] = chain.report(kept.get(chain.writer))
    for writer in kept:
        if writer not in reports:
            reports[writer] = _Chain(writer).report(kept[writer])
    return tuple(reports[writer] for writer in sorted(reports))


class _Chain:
    """Follows one writer's records and keeps the first fault."""

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self._count = 0
        self._last = (0, GENESIS)
        self._fault: tuple[int, str] | None = None

    def check(self, record: AuditRecord) -> None:
        """Takes the next record."""
        self._count += 1
        expected, previous = self._last[0] + 1, self._last[1]
        if self._fault is None:
            if record.sequence != expected:
                self._fault = (expected, f"record {expected} is missing; record {record.sequence} comes next")
            elif reason := _fault(record, previous):
                self._fault = (expected, f"record {expected} {reason}")
        self._last = (record.sequence, record.hash)

    def report(self, kept: tuple[int, str] | None) -> ChainReport:
        """Closes the chain against the end that was kept beside it."""
        if self._fault is None and self._last != (kept or (0, GENESIS)):
            self._fault = self._compare_end(kept)
        sequence, fault = self._fault or (None, "")
        return ChainReport(
            writer=self.writer,
            num_records=self._count,
            first_fault_sequence=sequence,
            fault=fault,
            head_hash=self._last[1] if self._count else "",
        )

    def _compare_end(self, kept: tuple[int, str] | None) -> tuple[int, str]:
        end = self._last[0]
        if kept is None:
            return max(end, 1), "the chain's end is not known: its row in audit_heads is missing"
        if kept[0] > end:
            return end + 1, f"record {end + 1} is missing: the chain was left at {kept[0]}"
        return kept[0], f"record {kept[0]} is not the one that the chain was left at"


def _fault(record: AuditRecord, previous: str) -> str:
    intact, follows = hash_record(record) == record.hash, record.previous_hash == previous
    if intact and follows:
        return ""
    if intact:
        return "does not follow the record before it: it was reordered, or that one was replaced"
    return "was changed: its hash does not match" if follows else "is out of place: it was reordered or replaced"


def _place(record: AuditRecord) -> tuple[int, int]:
    """Returns where a record stands among those of its answer, whichever chains they are in."""
    return {OPENED: 0, CLOSED: 1}.get(record.kind, 2), feedback_number(record.kind)


def _no_answer(answer_id: str) -> NotFound:
    return NotFound("there is no answer of that name", metadata={"answer_id": answer_id[:64]})


def _record(row: dict[str, object]) -> AuditRecord:
    values = {name: row[name] for name in _COLUMNS}
    # SQLite keeps what it is given: a tampered cell may be of any type, and must be compared, not crash.
    texts = {name: _text(value) for name, value in values.items() if name != "sequence"}
    return AuditRecord(sequence=_integer(values["sequence"]), **texts)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else repr(value)


def _integer(value: object) -> int:
    return value if isinstance(value, int) else -1
