"""The audit chain on a real SQLite file: durable, append-only, verifiable."""

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from services.router.audit import AuditLog, AuditReader, Payloads, canonical, hash_record, parse_timestamp
from services.router.audit import log as log_module
from services.router.audit.records import timestamp
from services.router.domain import (
    Answer,
    AuditRecord,
    ChainReport,
    Citation,
    Closing,
    Confidence,
    Draft,
    Opening,
    Outcome,
    Route,
    Span,
    StageTiming,
    Turn,
)
from services.router.metrics import RouterMetrics
from tandem.errors import Cancelled, ConfigError, InvalidInput, NotFound, Unavailable
from tandem.security import Principal
from tests.fakes.router import ALICE, question

BRAM = Principal("bram", "brightwater", frozenset(), frozenset({"user"}))
SECRET = "Why was claim 4711 of Ms Example refused?"


class Clock:
    """A clock that a test sets; each look moves it by a millisecond."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


class Store:
    """An audit database in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "audit.db"
        self.url = f"sqlite:///{self.path}"
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = RouterMetrics(self.registry)
        self._open: list[AuditLog | AuditReader] = []

    def log(self, writer: str = "router", *, keep_text: bool = True, max_queue: int = 64) -> AuditLog:
        log = AuditLog(
            url=self.url,
            writer=writer,
            payloads=Payloads(keep_text=keep_text),
            metrics=self.metrics,
            max_queue=max_queue,
            now=self.clock,
        )
        self._open.append(log)
        return log

    def started(self, writer: str = "router", **options: bool) -> AuditLog:
        log = self.log(writer, **options)
        log.start()
        return log

    def reader(self) -> AuditReader:
        reader = AuditReader(self.url)
        reader.start()
        self._open.append(reader)
        return reader

    async def verify(self) -> dict[str, ChainReport]:
        return {report.writer: report for report in await self.reader().verify()}

    def tamper(self, *statements: str) -> None:
        """Changes the file as somebody with access to it would: without the triggers."""
        connection = sqlite3.connect(self.path)
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def close(self) -> None:
        for item in self._open:
            item.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


def opening(answer_id: str, principal: Principal = ALICE) -> Opening:
    asked = question(SECRET, policy="rag", history=(Turn("Who?", "Nobody."),))
    asked = type(asked)(**{**vars(asked), "principal": principal})
    return Opening(answer_id=answer_id, question=asked, rewritten_question=f"About: {SECRET}")


def closing(answer_id: str, principal: Principal = ALICE, outcome: Outcome = Outcome.ANSWERED) -> Closing:
    draft = Draft(
        route=Route.RAG,
        text="It was late: 30 days.",
        confidence=Confidence(0.84321),
        citations=(
            Citation(
                answer_span=Span(0, 5),
                document_id="d",
                chunk_id="d-1",
                title="T",
                document_span=Span(3, 10),
                quote="30 days",
            ),
        ),
    )
    answer = Answer(
        answer_id=answer_id,
        policy="rag",
        rewritten_question=SECRET,
        draft=draft,
        steps=(),
        timings=(StageTiming("total", 0.25),),
    )
    return Closing(answer_id=answer_id, principal=principal, outcome=outcome, answer=answer)


async def fill(log: AuditLog, *answer_ids: str, principal: Principal = ALICE) -> None:
    for answer_id in answer_ids:
        await log.open(opening(answer_id, principal))
        await log.close(closing(answer_id, principal))


async def test_records_chain_from_zeros_and_verify(store: Store):
    await fill(store.started(), "a", "b")
    records = [*await store.reader().get("halden", "a"), *await store.reader().get("halden", "b")]
    assert [record.sequence for record in records] == [1, 2, 3, 4]
    assert [record.kind for record in records] == ["opened", "closed"] * 2
    assert records[0].previous_hash == "0" * 64
    assert [one.hash for one in records[:-1]] == [two.previous_hash for two in records[1:]]
    report = (await store.verify())["router"]
    assert (report.num_records, report.first_fault_sequence, report.fault) == (4, None, "")
    assert report.head_hash == records[-1].hash


async def test_the_hash_can_be_recomputed_from_the_documented_form(store: Store):
    await fill(store.started(), "a")
    record = (await store.reader().get("halden", "a"))[1]
    form = {
        "answer_id": record.answer_id,
        "kind": "closed",
        "outcome": "answered",
        "payload_json": record.payload_json,
        "previous_hash": record.previous_hash,
        "record_time": record.record_time,
        "sequence": 2,
        "subject": "alice",
        "tenant": "halden",
        "writer": "router",
    }
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == record.hash


async def test_payloads_hold_the_answer_with_fractions_as_text(store: Store):
    await fill(store.started(), "a")
    opened, closed = (json.loads(record.payload_json) for record in await store.reader().get("halden", "a"))
    assert opened["question"] == SECRET
    assert opened["history"] == [{"question": "Who?", "answer": "Nobody."}]
    assert closed["confidence"] == {"value": "0.843210", "calibration": ""}
    assert closed["citations"][0]["quote"] == "30 days"
    assert closed["timings"] == [{"stage": "total", "microseconds": 250000}]


async def test_hash_mode_keeps_no_text(store: Store):
    log = store.started(keep_text=False)
    await fill(log, "a")
    log.stop()
    kept = b"".join(file.read_bytes() for file in store.path.parent.iterdir())
    for text in ("4711", "Nobody", "It was late", "30 days"):
        assert text.encode() not in kept
    opened = json.loads((await store.reader().get("halden", "a"))[0].payload_json)
    assert opened["question_sha256"] == hashlib.sha256(SECRET.encode()).hexdigest()


async def test_a_byte_that_was_changed_is_found(store: Store):
    await fill(store.started(), "a", "b", "c")
    changed = "replace(payload_json, '30 days', '31 days')"
    store.tamper(f"UPDATE audit_records SET payload_json = {changed} WHERE sequence = 4")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 4
    assert "changed" in report.fault


@pytest.mark.parametrize(
    "change",
    [
        "tenant = 'brightwater'",
        "subject = 'mallory'",
        "outcome = 'abstained'",
        "kind = 'note'",
        "answer_id = 'z'",
        "record_time = '2020-01-01T00:00:00.000000Z'",
        "hash = replace(hash, substr(hash, 1, 1), 'x')",
        "payload_json = CAST(x'7b80ff7d' AS TEXT)",
        "payload_json = x'00'",
        "payload_json = 5",
        "record_time = 'yesterday'",
    ],
)
async def test_any_changed_field_is_found_and_can_be_shown(store: Store, change: str):
    await fill(store.started(), "a", "b")
    store.tamper(f"UPDATE audit_records SET {change} WHERE sequence = 3")
    assert (await store.verify())["router"].first_fault_sequence == 3
    await store.reader().page("halden", size=10, token="", start=None, end=None)


async def test_a_removed_record_is_found(store: Store):
    await fill(store.started(), "a", "b")
    store.tamper("DELETE FROM audit_records WHERE sequence = 2")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 2
    assert "missing" in report.fault


@pytest.mark.parametrize(("statement", "place"), [("sequence = 4", 4), ("sequence >= 2", 2), ("1", 1)])
async def test_a_chain_cut_short_is_found(store: Store, statement: str, place: int):
    await fill(store.started(), "a", "b")
    store.tamper(f"DELETE FROM audit_records WHERE {statement}")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == place
    assert "missing" in report.fault


async def test_swapped_records_are_found(store: Store):
    await fill(store.started(), "a", "b", "c")
    store.tamper(
        "UPDATE audit_records SET sequence = 99 WHERE sequence = 3",
        "UPDATE audit_records SET sequence = 3 WHERE sequence = 4",
        "UPDATE audit_records SET sequence = 4 WHERE sequence = 99",
    )
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 3
    assert "reordered" in report.fault


async def test_a_record_rewritten_with_a_right_hash_breaks_the_next(store: Store):
    await fill(store.started(), "a", "b")
    record = (await store.reader().get("halden", "a"))[1]
    forged = AuditRecord(**{**vars(record), "payload_json": "{}"})
    store.tamper(f"UPDATE audit_records SET payload_json = '{{}}', hash = '{hash_record(forged)}' WHERE sequence = 2")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 3
    assert "does not follow" in report.fault


async def test_each_chain_is_judged_by_itself(store: Store):
    await fill(store.started("one"), "a")
    await fill(store.started("two"), "b")
    store.tamper("UPDATE audit_records SET subject = 'mallory' WHERE writer = 'two'")
    reports = await store.verify()
    assert list(reports) == ["one", "two"]
    assert reports["one"].first_fault_sequence is None
    assert reports["two"].first_fault_sequence == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_records SET subject = 'x'",
        "DELETE FROM audit_records",
        "DELETE FROM audit_heads",
        "UPDATE audit_heads SET sequence = 0",
    ],
)
async def test_the_database_itself_refuses_changes(store: Store, statement: str):
    await fill(store.started(), "a")
    connection = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()


async def test_a_second_process_cannot_write_the_same_chain(store: Store):
    first = store.started()
    with pytest.raises(ConfigError, match="ROUTER_WRITER"):
        store.started()
    store.started("another")
    first.stop()
    store.started()


async def test_what_a_crash_left_open_is_closed_as_interrupted_once(store: Store):
    log = store.started()
    await fill(log, "done")
    await log.open(opening("lost"))
    await log.open(opening("lost too", BRAM))
    log.stop()
    assert store.log().start() == 2
    records = await store.reader().get("halden", "lost")
    assert [(record.kind, record.outcome) for record in records] == [("opened", ""), ("closed", "interrupted")]
    assert (await store.reader().get("brightwater", "lost too"))[1].tenant == "brightwater"
    store.close()
    assert store.log().start() == 0
    assert (await store.verify())["router"].first_fault_sequence is None


async def test_another_writers_open_answers_are_left_alone(store: Store):
    await store.started("one").open(opening("running"))
    assert store.log("two").start() == 0


async def test_a_damaged_end_stops_the_start_with_a_clear_line(store: Store):
    log = store.started()
    await fill(log, "a")
    log.stop()
    store.tamper("DELETE FROM audit_records WHERE sequence = 2")
    with pytest.raises(ConfigError, match="removed or changed"):
        store.log().start()


@pytest.mark.parametrize("url", ["sqlite://", "nonsense", "sqlite:////proc/none/audit.db", "oddbase://x/y"])
def test_a_log_that_cannot_be_kept_stops_the_start(url: str):
    log = AuditLog(url=url, writer="w", payloads=Payloads(), metrics=RouterMetrics(CollectorRegistry()))
    with pytest.raises(ConfigError):
        log.start()


async def test_concurrent_entries_share_commits_and_stay_in_order(store: Store):
    log = store.started(max_queue=256)
    await asyncio.gather(*(log.open(opening(f"a{number}")) for number in range(100)))
    page = await store.reader().page("halden", size=1000, token="", start=None, end=None)
    assert [record.answer_id for record in reversed(page.records)] == [f"a{number}" for number in range(100)]
    commits = store.registry.get_sample_value("tandem_router_audit_batch_entries_count")
    assert commits is not None
    assert commits < 100
    assert store.registry.get_sample_value("tandem_router_audit_append_seconds_count") == 100


@pytest.mark.parametrize("failure", [OperationalError("insert", {}, Exception("disk full")), TypeError("a bug")])
async def test_a_failed_commit_fails_its_entries_and_no_later_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    log = store.started()
    await fill(log, "a")
    commit, gate = AuditLog._commit, threading.Event()

    def failing(self: AuditLog, engine: object, drafts: object) -> None:
        if not gate.is_set():
            raise failure
        commit(self, engine, drafts)

    monkeypatch.setattr(log_module.AuditLog, "_commit", failing)
    with pytest.raises(Unavailable):
        await log.open(opening("b"))
    gate.set()
    await fill(log, "c")
    assert store.registry.get_sample_value("tandem_router_audit_failures_total") == 1
    assert (await store.verify())["router"].num_records == 4


async def test_one_bad_entry_does_not_take_its_group_along(store: Store):
    log = store.started()
    await fill(log, "a")
    results = await asyncio.gather(
        *(log.open(opening(answer_id)) for answer_id in ("b", "a", "c")), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), Unavailable, type(None)]
    assert (await store.verify())["router"].first_fault_sequence is None


async def test_a_full_queue_refuses_at_once(store: Store, monkeypatch: pytest.MonkeyPatch):
    gate = threading.Event()
    monkeypatch.setattr(AuditLog, "_commit", lambda *_: gate.wait(30))
    log = store.started(max_queue=2)
    waiting = [asyncio.create_task(log.open(opening(f"a{number}"))) for number in range(8)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
    assert any(isinstance(task.exception(), Unavailable) for task in done)
    gate.set()
    await asyncio.wait(waiting)


async def test_a_closed_log_takes_nothing(store: Store):
    log = store.started()
    log.stop()
    with pytest.raises(Unavailable):
        await log.open(opening("a"))


async def test_the_chains_time_never_steps_back(store: Store):
    log = store.started()
    await log.open(opening("a"))
    store.clock.now -= timedelta(days=1)
    await log.open(opening("b"))
    page = await store.reader().page("halden", size=10, token="", start=None, end=None)
    assert [record.answer_id for record in page.records] == ["b", "a"]
    assert page.records[0].record_time == page.records[1].record_time


async def test_a_tenant_sees_its_own_records_only(store: Store):
    log = store.started()
    await fill(log, "a")
    await fill(log, "b", principal=BRAM)
    reader = store.reader()
    with pytest.raises(NotFound):
        await reader.get("halden", "b")
    page = await reader.page("brightwater", size=10, token="", start=None, end=None)
    assert {record.answer_id for record in page.records} == {"b"}
    stolen = (await reader.page("halden", size=1, token="", start=None, end=None)).next_page_token
    after = await reader.page("brightwater", size=10, token=stolen, start=None, end=None)
    assert all(record.tenant == "brightwater" for record in after.records)


async def test_pages_are_newest_first_and_steady_while_records_arrive(store: Store):
    log = store.started()
    await fill(log, *(f"a{number}" for number in range(5)))
    reader = store.reader()
    seen, token = [], ""
    while True:
        page = await reader.page("halden", size=3, token=token, start=None, end=None)
        seen += [record.sequence for record in page.records]
        token = page.next_page_token
        await log.open(opening(f"late {len(seen)}"))
        if not token:
            break
    assert seen == list(range(10, 0, -1))


async def test_a_page_of_long_records_ends_early(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.router.audit.reader._PAGE_BYTES", 500)
    await fill(store.started(), "a", "b")
    page = await store.reader().page("halden", size=100, token="", start=None, end=None)
    assert 1 <= len(page.records) < 4
    assert page.next_page_token


async def test_a_window_of_time_takes_its_start_and_leaves_its_end(store: Store):
    log = store.started()
    await fill(log, "a", "b")
    reader = store.reader()
    records = (await reader.page("halden", size=10, token="", start=None, end=None)).records
    start, end = parse_timestamp(records[2].record_time), parse_timestamp(records[0].record_time)
    window = await reader.page("halden", size=10, token="", start=start, end=end)
    assert [record.sequence for record in window.records] == [3, 2]


@pytest.mark.parametrize("token", ["x", "é", "W10", "bnVsbA", "WzEsMiwzXQ", "A" * 5000])
async def test_a_token_that_is_none_is_refused(store: Store, token: str):
    store.started()
    with pytest.raises(InvalidInput):
        await store.reader().page("halden", size=10, token=token, start=None, end=None)


async def test_a_verification_that_is_given_up_stops(store: Store):
    await fill(store.started(), "a")
    reader = store.reader()
    stop = threading.Event()
    stop.set()
    from services.router.audit.reader import verify_chains

    assert reader._engine is not None
    with reader._engine.connect() as connection, pytest.raises(Cancelled):
        verify_chains(connection, stop)


async def test_verification_sees_one_state_while_records_arrive(store: Store):
    log = store.started()
    reader = store.reader()

    async def write() -> None:
        for number in range(40):
            await log.open(opening(f"w{number}"))

    async def check() -> None:
        for _ in range(10):
            assert all(report.first_fault_sequence is None for report in await reader.verify())

    await asyncio.gather(write(), check())


def test_sqlite_is_in_wal_mode_and_syncs_fully(store: Store):
    log = store.started()
    assert log._engine is not None
    with log._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_is_read_back_and_written_the_same(value: object):
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text


@pytest.mark.parametrize("value", [0.5, {"a": [1.0]}, float("nan"), {1: 2}, b"x", object()])
def test_canonical_json_refuses_what_has_two_spellings(value: object):
    with pytest.raises(TypeError):
        canonical(value)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_moments_order_as_text_as_in_time(one: datetime, two: datetime):
    assert (timestamp(one) < timestamp(two)) == (one < two)
    assert parse_timestamp(timestamp(one)) == one
