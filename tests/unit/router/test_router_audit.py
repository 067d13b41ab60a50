"""The audit chain on a real SQLite file: append-only, and whatever is changed in it is found."""

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.router.audit import hash_record
from services.router.domain import AuditRecord
from tandem.errors import Cancelled
from tests.fakes.router_audit import SECRET, Store, fill, opening


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


async def test_records_chain_from_zeros_and_verify(store: Store) -> None:
    await fill(store.started(), "a", "b")
    records = [*await store.reader().get("halden", "a"), *await store.reader().get("halden", "b")]
    assert [record.sequence for record in records] == [1, 2, 3, 4]
    assert [record.kind for record in records] == ["opened", "closed"] * 2
    assert records[0].previous_hash == "0" * 64
    assert [one.hash for one in records[:-1]] == [two.previous_hash for two in records[1:]]
    report = (await store.verify())["router"]
    assert (report.num_records, report.first_fault_sequence, report.fault) == (4, None, "")
    assert report.head_hash == records[-1].hash


async def test_the_hash_can_be_recomputed_from_the_documented_form(store: Store) -> None:
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


async def test_payloads_hold_the_answer_with_fractions_as_text(store: Store) -> None:
    await fill(store.started(), "a")
    opened, closed = (json.loads(record.payload_json) for record in await store.reader().get("halden", "a"))
    assert opened["question"] == SECRET
    assert opened["history"] == [{"question": "Who?", "answer": "Nobody."}]
    assert closed["confidence"] == {"value": "0.843210", "calibration": ""}
    assert closed["citations"][0]["quote"] == "30 days"
    assert closed["timings"] == [{"stage": "total", "microseconds": 250000}]
    (draft,) = closed["drafts"]
    assert (draft["route"], draft["finished"]) == ("finetuned", False)
    assert (draft["lineage"]["adapter_sha256"], draft["lineage"]["signer_key_id"]) == ("cd" * 32, "ef" * 8)


async def test_hash_mode_keeps_no_text(store: Store) -> None:
    log = store.started(keep_text=False)
    await fill(log, "a")
    log.stop()
    kept = b"".join(file.read_bytes() for file in store.path.parent.iterdir())
    for text in ("4711", "Nobody", "It was late", "30 days"):
        assert text.encode() not in kept
    opened = json.loads((await store.reader().get("halden", "a"))[0].payload_json)
    assert opened["question_sha256"] == hashlib.sha256(SECRET.encode()).hexdigest()


async def test_a_byte_that_was_changed_is_found(store: Store) -> None:
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
async def test_any_changed_field_is_found_and_can_be_shown(store: Store, change: str) -> None:
    await fill(store.started(), "a", "b")
    store.tamper(f"UPDATE audit_records SET {change} WHERE sequence = 3")
    assert (await store.verify())["router"].first_fault_sequence == 3
    await store.reader().page("halden", size=10, token="", start=None, end=None)


async def test_a_removed_record_is_found(store: Store) -> None:
    await fill(store.started(), "a", "b")
    store.tamper("DELETE FROM audit_records WHERE sequence = 2")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 2
    assert "missing" in report.fault


@pytest.mark.parametrize(("statement", "place"), [("sequence = 4", 4), ("sequence >= 2", 2), ("1", 1)])
async def test_a_chain_cut_short_is_found(store: Store, statement: str, place: int) -> None:
    await fill(store.started(), "a", "b")
    store.tamper(f"DELETE FROM audit_records WHERE {statement}")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == place
    assert "missing" in report.fault


async def test_swapped_records_are_found(store: Store) -> None:
    await fill(store.started(), "a", "b", "c")
    store.tamper(
        "UPDATE audit_records SET sequence = 99 WHERE sequence = 3",
        "UPDATE audit_records SET sequence = 3 WHERE sequence = 4",
        "UPDATE audit_records SET sequence = 4 WHERE sequence = 99",
    )
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 3
    assert "reordered" in report.fault


async def test_a_record_rewritten_with_a_right_hash_breaks_the_next(store: Store) -> None:
    await fill(store.started(), "a", "b")
    record = (await store.reader().get("halden", "a"))[1]
    forged = AuditRecord(**{**vars(record), "payload_json": "{}"})
    store.tamper(f"UPDATE audit_records SET payload_json = '{{}}', hash = '{hash_record(forged)}' WHERE sequence = 2")
    report = (await store.verify())["router"]
    assert report.first_fault_sequence == 3
    assert "does not follow" in report.fault


async def test_each_chain_is_judged_by_itself(store: Store) -> None:
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
async def test_the_database_itself_refuses_changes(store: Store, statement: str) -> None:
    await fill(store.started(), "a")
    connection = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()


async def test_a_verification_that_is_given_up_stops(store: Store) -> None:
    await fill(store.started(), "a")
    reader = store.reader()
    stop = threading.Event()
    stop.set()
    from services.router.audit.reader import verify_chains

    assert reader._engine is not None
    with reader._engine.connect() as connection, pytest.raises(Cancelled):
        verify_chains(connection, stop)


async def test_verification_sees_one_state_while_records_arrive(store: Store) -> None:
    log = store.started()
    reader = store.reader()

    async def write() -> None:
        for number in range(40):
            await log.open(opening(f"w{number}"))

    async def check() -> None:
        for _ in range(10):
            assert all(report.first_fault_sequence is None for report in await reader.verify())

    await asyncio.gather(write(), check())
