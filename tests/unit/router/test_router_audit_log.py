"""The audit log: one writer per chain, durable, whole after crashes, failures and full queues."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from services.router.audit import AuditLog, Payloads
from services.router.audit import log as log_module
from services.router.metrics import RouterMetrics
from tandem.errors import ConfigError, Unavailable
from tests.fakes.router_audit import BRAM, Store, fill, opening


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


async def test_a_second_process_cannot_write_the_same_chain(store: Store) -> None:
    first = store.started()
    with pytest.raises(ConfigError, match="ROUTER_WRITER"):
        store.started()
    store.started("another")
    first.stop()
    store.started()


async def test_what_a_crash_left_open_is_closed_as_interrupted_once(store: Store) -> None:
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


async def test_another_writers_open_answers_are_left_alone(store: Store) -> None:
    await store.started("one").open(opening("running"))
    assert store.log("two").start() == 0


async def test_a_damaged_end_stops_the_start_with_a_clear_line(store: Store) -> None:
    log = store.started()
    await fill(log, "a")
    log.stop()
    store.tamper("DELETE FROM audit_records WHERE sequence = 2")
    with pytest.raises(ConfigError, match="removed or changed"):
        store.log().start()


@pytest.mark.parametrize("url", ["sqlite://", "nonsense", "sqlite:////proc/none/audit.db", "oddbase://x/y"])
def test_a_log_that_cannot_be_kept_stops_the_start(url: str) -> None:
    log = AuditLog(url=url, writer="w", payloads=Payloads(), metrics=RouterMetrics(CollectorRegistry()))
    with pytest.raises(ConfigError):
        log.start()


async def test_concurrent_entries_share_commits_and_stay_in_order(store: Store) -> None:
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
) -> None:
    log = store.started()
    await fill(log, "a")
    commit, gate = AuditLog._commit, threading.Event()

    def failing(self: AuditLog, engine: Any, drafts: Any) -> None:
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


async def test_one_bad_entry_does_not_take_its_group_along(store: Store) -> None:
    log = store.started()
    await fill(log, "a")
    results = await asyncio.gather(
        *(log.open(opening(answer_id)) for answer_id in ("b", "a", "c")), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), Unavailable, type(None)]
    assert (await store.verify())["router"].first_fault_sequence is None


async def test_a_full_queue_refuses_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(AuditLog, "_commit", lambda *_: gate.wait(30))
    log = store.started(max_queue=2)
    waiting = [asyncio.create_task(log.open(opening(f"a{number}"))) for number in range(8)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
    assert any(isinstance(task.exception(), Unavailable) for task in done)
    gate.set()
    await asyncio.wait(waiting)


async def test_a_closed_log_takes_nothing(store: Store) -> None:
    log = store.started()
    log.stop()
    with pytest.raises(Unavailable):
        await log.open(opening("a"))


async def test_the_chains_time_never_steps_back(store: Store) -> None:
    log = store.started()
    await log.open(opening("a"))
    store.clock.now -= timedelta(days=1)
    await log.open(opening("b"))
    page = await store.reader().page("halden", size=10, token="", start=None, end=None)
    assert [record.answer_id for record in page.records] == ["b", "a"]
    assert page.records[0].record_time == page.records[1].record_time


def test_sqlite_is_in_wal_mode_and_syncs_fully(store: Store) -> None:
    log = store.started()
    assert log._engine is not None
    with log._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
