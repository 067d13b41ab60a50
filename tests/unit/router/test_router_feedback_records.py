"""Verdicts in the audit chain: numbered, durable, whole, and in a database that an earlier version made."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.router.audit import AuditLog
from services.router.domain import Outcome, Route
from services.router.domain.calibration import Features
from services.router.domain.feedback import Judgement, Verdict
from tandem.errors import InvalidInput, NotFound, Unavailable
from tests.fakes.router_audit import BRAM, Store, closing, fill, opening

RIGHT = Judgement(verdict=Verdict.RIGHT, deflected_ticket=True)
EDITED = Judgement(verdict=Verdict.EDITED, corrected_text="It was 31 days late.")
EARLIER = Path(__file__).parents[2] / "fakes" / "audit_0.sql"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


async def say(
    store: Store, log: AuditLog, answer_id: str, said: Judgement = RIGHT, *, by: str = "alice", tenant: str = "halden"
) -> None:
    await log.judge(await store.reader().judged(tenant, answer_id), said, subject=by)


async def test_a_verdict_is_an_entry_of_the_chain_after_its_answer(store: Store) -> None:
    log = store.started()
    await fill(log, "a", "b")
    await say(store, log, "a", EDITED)
    await say(store, log, "a", by="olga")
    found = await store.reader().get("halden", "a")
    assert [record.kind for record in found] == ["opened", "closed", "feedback-1", "feedback-2"]
    assert [record.sequence for record in found] == [1, 2, 5, 6]
    assert [record.subject for record in found] == ["alice", "alice", "alice", "olga"]
    assert json.loads(found[2].payload_json) == {
        "verdict": "edited",
        "corrected_text": "It was 31 days late.",
        "deflected_ticket": None,
        "domain": "default",
        "policy": "rag",
        "route": "rag",
        "signals": None,
    }
    report = (await store.verify())["router"]
    assert (report.num_records, report.first_fault_sequence, report.head_hash) == (6, None, found[-1].hash)
    answer = await store.reader().judged("halden", "a")
    assert (answer.given, answer.asker, answer.num_verdicts) == (True, "alice", 2)
    first, second = answer.feedback
    assert (first.verdict, first.corrected_text, first.subject, first.number) == (
        Verdict.EDITED, "It was 31 days late.", "alice", 1,
    )  # fmt: skip
    assert (second.verdict, second.deflected_ticket, second.policy, second.route) == (
        Verdict.RIGHT, True, "rag", Route.RAG,
    )  # fmt: skip


async def test_ten_verdicts_and_more_stay_in_their_order(store: Store) -> None:
    log = store.started()
    await fill(log, "a")
    for _ in range(12):
        await say(store, log, "a")
    assert [one.number for one in (await store.reader().judged("halden", "a")).feedback] == list(range(1, 13))


async def test_signals_of_an_answer_travel_with_its_verdict_but_not_those_of_a_withheld_draft(store: Store) -> None:
    log = store.started()
    known = Features(mean_logprob=-0.25, scope_distance=0.5)
    for answer_id, abstained in (("given", False), ("withheld", True)):
        ending = closing(answer_id)
        assert ending.answer is not None
        draft = replace(ending.answer.draft, signals=known, abstained=abstained)
        await log.open(opening(answer_id))
        await log.close(replace(ending, answer=replace(ending.answer, draft=draft, domain="claims")))
        await say(store, log, answer_id)
    withheld, given = (await store.reader().feedback("halden", domain="claims", size=10, token="")).feedback
    assert (given.signals, given.domain) == (known, "claims")
    assert withheld.signals is None


async def test_hash_mode_keeps_no_correction_and_knows_it_again(store: Store) -> None:
    log = store.started(keep_text=False)
    await fill(log, "a")
    await say(store, log, "a", EDITED)
    log.stop()
    assert b"31 days" not in b"".join(file.read_bytes() for file in store.path.parent.iterdir())
    (one,) = (await store.reader().judged("halden", "a")).feedback
    assert (one.corrected_text, len(one.corrected_sha256)) == ("", 64)


async def test_a_restart_closes_what_was_open_and_leaves_verdicts_alone(store: Store) -> None:
    log = store.started()
    await fill(log, "a")
    await say(store, log, "a")
    await log.open(opening("lost"))
    log.stop()
    assert store.log().start() == 1
    assert [record.kind for record in await store.reader().get("halden", "a")] == ["opened", "closed", "feedback-1"]
    lost = await store.reader().judged("halden", "lost")
    assert not lost.given
    assert (await store.verify())["router"].first_fault_sequence is None


async def test_a_database_of_the_earlier_version_is_used_as_it_is(store: Store) -> None:
    store.path.parent.mkdir()
    connection = sqlite3.connect(store.path)
    connection.executescript(EARLIER.read_text())
    before = connection.execute("SELECT * FROM audit_records ORDER BY sequence").fetchall()
    log = store.log()
    assert log.start() == 1
    await say(store, log, "answered")
    await fill(log, "new")
    report = (await store.verify())["router"]
    assert (report.num_records, report.first_fault_sequence) == (len(before) + 4, None)
    assert connection.execute("SELECT * FROM audit_records ORDER BY sequence").fetchall()[: len(before)] == before
    (one,) = (await store.reader().feedback("halden", domain="", size=10, token="")).feedback
    assert (one.answer_id, one.domain, one.policy, one.signals) == ("answered", "default", "rag", None)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM audit_records WHERE tenant = 'halden' AND kind NOT IN ('opened', 'closed') "
        "ORDER BY record_time DESC, writer DESC, sequence DESC"
    ).fetchall()
    assert [step[3] for step in plan] == ["SEARCH audit_records USING INDEX audit_records_feedback (tenant=?)"]
    connection.close()


async def test_a_record_of_the_earlier_version_that_was_changed_is_found(store: Store) -> None:
    store.path.parent.mkdir()
    connection = sqlite3.connect(store.path)
    connection.executescript(EARLIER.read_text())
    connection.close()
    store.started()
    store.tamper("UPDATE audit_records SET payload_json = replace(payload_json, 'late', 'early') WHERE sequence = 2")
    assert (await store.verify())["router"].first_fault_sequence == 2


@pytest.mark.parametrize(
    "outcome", [Outcome.ANSWERED, Outcome.ABSTAINED, Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED]
)
async def test_only_what_ended_with_a_text_was_given(store: Store, outcome: Outcome) -> None:
    log = store.started()
    await log.open(opening("a"))
    assert not (await store.reader().judged("halden", "a")).given
    await log.close(closing("a", outcome=outcome))
    told = await store.reader().judged("halden", "a")
    assert told.given == (outcome in (Outcome.ANSWERED, Outcome.ABSTAINED))


async def test_a_number_is_given_once_however_many_write(store: Store) -> None:
    one, two = store.started("one"), store.started("two")
    await fill(one, "a")
    seen = await store.reader().judged("halden", "a")
    await one.judge(seen, RIGHT, subject="alice")
    with pytest.raises(Unavailable):
        await two.judge(seen, RIGHT, subject="olga")
    await say(store, two, "a", by="olga")
    assert [one.subject for one in (await store.reader().judged("halden", "a")).feedback] == ["alice", "olga"]
    assert all(report.first_fault_sequence is None for report in (await store.verify()).values())


async def test_pages_of_a_tenant_and_a_domain_are_newest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = store.started()
    for number in range(6):
        ending = closing(f"a{number}")
        assert ending.answer is not None
        await log.open(opening(f"a{number}"))
        await log.close(replace(ending, answer=replace(ending.answer, domain=("claims", "travel")[number % 2])))
        await say(store, log, f"a{number}")
    await fill(log, "bram's", principal=BRAM)
    await say(store, log, "bram's", by="bram", tenant="brightwater")
    reader = store.reader()
    monkeypatch.setattr("services.router.audit.reader._MAX_SCANNED", 3)
    seen, token, num_pages = [], "", 0
    while num_pages == 0 or token:
        page = await reader.feedback("halden", domain="claims", size=2, token=token)
        seen += [one.answer_id for one in page.feedback]
        token, num_pages = page.next_page_token, num_pages + 1
    assert (seen, num_pages) == (["a4", "a2", "a0"], 2)
    whole = await reader.feedback("halden", domain="", size=3, token="")
    rest = await reader.feedback("halden", domain="", size=3, token=whole.next_page_token)
    assert [one.answer_id for one in (*whole.feedback, *rest.feedback)] == ["a5", "a4", "a3", "a2", "a1", "a0"]
    assert not rest.next_page_token
    assert [one.answer_id for one in await reader.newest_feedback(2)] == ["bram's", "a5"]
    with pytest.raises(InvalidInput):
        await reader.feedback("halden", domain="", size=3, token="nonsense")


@pytest.mark.parametrize(
    "change",
    [
        "payload_json = replace(payload_json, 'right', 'wrong')",
        "payload_json = 'null'",
        "payload_json = replace(payload_json, 'right', 'splendid')",
        "kind = 'feedback-x'",
        "subject = 'mallory'",
        "record_time = 'yesterday'",
    ],
)
async def test_a_changed_verdict_is_found_and_stops_no_list(store: Store, change: str) -> None:
    log = store.started()
    await fill(log, "a")
    await say(store, log, "a")
    await say(store, log, "a", EDITED)
    store.tamper(f"UPDATE audit_records SET {change} WHERE sequence = 3")
    assert (await store.verify())["router"].first_fault_sequence == 3
    listed = (await store.reader().feedback("halden", domain="", size=10, token="")).feedback
    assert EDITED.verdict in [one.verdict for one in listed]
    assert (await store.reader().judged("halden", "a")).num_verdicts == 2  # the next is still the third
    with pytest.raises(NotFound):
        await store.reader().judged("brightwater", "a")
