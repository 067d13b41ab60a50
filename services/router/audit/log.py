"""The writer of one chain: a thread that makes entries durable in groups.

Callers hand over an entry and wait for its commit. Whatever has come in while one commit was being synced to disk goes
into the next, so that concurrent answers share the cost of an fsync. Order in the chain is the order of arrival.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, bindparam, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from services.router.audit.payload import Payloads
from services.router.audit.records import (
    CLOSED,
    GENESIS,
    OPENED,
    canonical,
    feedback_kind,
    hash_record,
    timestamp,
)
from services.router.audit.schema import Release, heads, hold_chain, open_engine, records
from services.router.domain import AuditRecord, Closing, Opening, Outcome
from services.router.domain.feedback import JudgedAnswer, Judgement
from services.router.metrics import RouterMetrics
from tandem.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

_MAX_GROUP = 256
# Made once: to build a statement takes the interpreter longer than SQLite takes to run it.
_APPEND = insert(records)
_MOVE_HEAD = (
    update(heads)
    .where(heads.c.writer == bindparam("of"), heads.c.sequence == bindparam("at"))
    .values(sequence=bindparam("to"), hash=bindparam("end"))
)
_INTERRUPTED = canonical({"steps": [], "degraded": [], "error": {"code": "UNAVAILABLE", "reason": "INTERRUPTED"}})


@dataclass
class _Entry:
    """Is a record to be: sequence, time and hashes are filled in by the writer thread."""

    record: AuditRecord
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    handed_over: float


@dataclass(frozen=True)
class _Head:
    sequence: int
    hash: str
    record_time: str


class AuditLog:
    """Appends to one writer's chain; implements services.router.domain.Audit and FeedbackLog.

    `start` and `stop` block and are called off the event loop, or before it serves.
    """

    def __init__(
        self,
        *,
        url: str,
        writer: str,
        payloads: Payloads,
        metrics: RouterMetrics,
        max_queue: int = 1024,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = url
        self._writer = writer
        self._payloads = payloads
        self._metrics = metrics
        self._now = now
        self._queue: queue.Queue[_Entry | None] = queue.Queue(max_queue)
        self._engine: Engine | None = None
        self._release: Release | None = None
        self._thread: threading.Thread | None = None
        self._head: _Head | None = None

    def start(self) -> int:
        """Takes the chain, closes what a crash left open as interrupted, and returns how many those were.

        Raises ConfigError when the database cannot be opened, another process has the chain, or its end is damaged.
        """
        engine = open_engine(self._url)
        self._engine = engine
        try:
            self._release = hold_chain(engine, self._url, self._writer)
            num_interrupted = self._recover(engine)
        except SQLAlchemyError as error:
            self.stop()
            raise ConfigError(f"cannot read the audit log: {type(error).__name__}") from error
        except ConfigError:
            self.stop()
            raise
        self._thread = threading.Thread(target=self._run, args=(engine,), name="audit", daemon=True)
        self._thread.start()
        return num_interrupted

    def stop(self) -> None:
        """Writes what was handed over, and lets the chain go."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._release is not None:
            self._release()
            self._release = None

    async def open(self, opening: Opening) -> None:
        """Records that an answer begins; raises Unavailable when the record is not durable."""
        principal = opening.question.principal
        await self._append(
            self._draft(
                answer_id=opening.answer_id,
                kind=OPENED,
                outcome="",
                subject=principal.subject,
                tenant=principal.tenant,
                payload_json=self._payloads.opened(opening),
            )
        )

    async def close(self, closing: Closing) -> None:
        """Records how an answer ended; raises Unavailable when the record is not durable."""
        await self._append(
            self._draft(
                answer_id=closing.answer_id,
                kind=CLOSED,
                outcome=closing.outcome.value,
                subject=closing.principal.subject,
                tenant=closing.principal.tenant,
                payload_json=self._payloads.closed(closing),
            )
        )

    async def judge(self, answer: JudgedAnswer, judgement: Judgement, *, subject: str) -> None:
        """Records the answer's next verdict; raises Unavailable when it is not durable or another took the number."""
        await self._append(
            self._draft(
                answer_id=answer.answer_id,
                kind=feedback_kind(answer.num_verdicts + 1),
                outcome="",
                subject=subject,
                tenant=answer.tenant,
                payload_json=self._payloads.feedback(answer, judgement),
            )
        )

    def _draft(
        self, *, answer_id: str, kind: str, outcome: str, subject: str, tenant: str, payload_json: str
    ) -> AuditRecord:
        return AuditRecord(
            writer=self._writer,
            sequence=0,
            answer_id=answer_id,
            kind=kind,
            outcome=outcome,
            record_time="",
            subject=subject,
            tenant=tenant,
            payload_json=payload_json,
            previous_hash="",
            hash="",
        )

    async def _append(self, record: AuditRecord) -> None:
        loop = asyncio.get_running_loop()
        entry = _Entry(record, loop, loop.create_future(), time.perf_counter())
        try:
            if self._thread is None:
                raise Unavailable("the audit log is not open", reason="AUDIT_UNAVAILABLE")
            self._queue.put_nowait(entry)
        except queue.Full:
            self._metrics.audit_failures.inc()
            raise Unavailable("the audit log cannot keep up", retry_after_s=1.0, reason="AUDIT_UNAVAILABLE") from None
        await entry.done

    def _run(self, engine: Engine) -> None:
        stopping = False
        while not stopping:
            group: list[_Entry] = []
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) == _MAX_GROUP:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            stopping = item is None
            if group:
                self._write(engine, group)

    def _write(self, engine: Engine, group: Sequence[_Entry]) -> None:
        """Makes a group durable; when it fails as a whole its entries are tried one by one."""
        failure = self._try_commit(engine, [entry.record for entry in group])
        for entry in group:
            error = failure
            if failure is not None and len(group) > 1:
                error = self._try_commit(engine, [entry.record])
            if error is not None:
                self._metrics.audit_failures.inc()
                log.error("audit entry not written", extra={"kind": entry.record.kind, "error": type(error).__name__})
            else:
                self._metrics.audit_append_seconds.observe(time.perf_counter() - entry.handed_over)
            _settle(entry, error)

    def _try_commit(self, engine: Engine, drafts: Sequence[AuditRecord]) -> Exception | None:
        try:
            self._commit(engine, drafts)
        except Exception as error:  # noqa: BLE001  the thread's root: it must outlive any entry, or all later ones hang
            # Whether a commit that failed took place is not known: the next one looks where the chain ends.
            self._head = None
            return error
        self._metrics.audit_batch_entries.observe(len(drafts))
        return None

    def _commit(self, engine: Engine, drafts: Sequence[AuditRecord]) -> None:
        if self._head is None:
            with engine.connect() as connection:
                self._head = self._read_head(connection)
        start = head = self._head
        rows = []
        for draft in drafts:
            # The clock may step back; the chain's own time does not.
            moment = max(timestamp(self._now()), head.record_time)
            record = replace(draft, sequence=head.sequence + 1, record_time=moment, previous_hash=head.hash)
            record = replace(record, hash=hash_record(record))
            rows.append(dict(vars(record)))
            head = _Head(record.sequence, record.hash, record.record_time)
        with engine.begin() as connection:
            connection.execute(_APPEND, rows)
            moved = {"of": self._writer, "at": start.sequence, "to": head.sequence, "end": head.hash}
            found = connection.execute(_MOVE_HEAD, moved)
            if found.rowcount == 0:
                connection.execute(insert(heads).values(writer=self._writer, sequence=head.sequence, hash=head.hash))
        self._head = head

    def _read_head(self, connection: Connection) -> _Head:
        last = connection.execute(
            select(records.c.sequence, records.c.hash, records.c.record_time)
            .where(records.c.writer == self._writer)
            .order_by(records.c.sequence.desc())
            .limit(1)
        ).first()
        kept = connection.execute(select(heads).where(heads.c.writer == self._writer)).first()
        end = (last.sequence, last.hash) if last else (0, GENESIS)
        if end != ((kept.sequence, kept.hash) if kept else (0, GENESIS)):
            raise ConfigError(
                f'the audit chain "{self._writer}" does not end where it was left: records were removed or changed. '
                "Keep the database for an inquiry, and set ROUTER_WRITER to a new name to go on"
            )
        return _Head(last.sequence, last.hash, last.record_time) if last else _Head(0, GENESIS, "")

    def _recover(self, engine: Engine) -> int:
        closed = select(records.c.answer_id).where(records.c.writer == self._writer, records.c.kind == CLOSED)
        unclosed = (
            select(records.c.answer_id, records.c.subject, records.c.tenant)
            .where(records.c.writer == self._writer, records.c.kind == OPENED, records.c.answer_id.not_in(closed))
            .order_by(records.c.sequence)
        )
        with engine.connect() as connection:
            self._head = self._read_head(connection)
            rows = connection.execute(unclosed).all()
        for start in range(0, len(rows), _MAX_GROUP):
            drafts = [
                self._draft(
                    answer_id=row.answer_id,
                    kind=CLOSED,
                    outcome=Outcome.INTERRUPTED.value,
                    subject=row.subject,
                    tenant=row.tenant,
                    payload_json=_INTERRUPTED,
                )
                for row in rows[start : start + _MAX_GROUP]
            ]
            self._commit(engine, drafts)
        return len(rows)


def _settle(entry: _Entry, error: Exception | None) -> None:
    def settle() -> None:
        if entry.done.done():
            return
        if error is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(
                Unavailable("the audit record could not be written", retry_after_s=1.0, reason="AUDIT_UNAVAILABLE")
            )

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        entry.loop.call_soon_threadsafe(settle)
