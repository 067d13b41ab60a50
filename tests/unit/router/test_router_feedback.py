"""Who may judge which answer, how often, and who is told."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.domain.feedback import MAX_VERDICTS, Feedback, Judgement, Verdict
from services.router.feedback import FeedbackIntake
from tandem.errors import FailedPrecondition, NotFound, TooLarge
from tandem.security import Principal
from tests.fakes.router import ALICE
from tests.fakes.router_audit import BRAM, Store, fill, opening

OLGA = Principal("olga", "halden", frozenset(), frozenset({"user", "operator"}))
BEN = Principal("ben", "halden", frozenset(), frozenset({"user"}))
RIGHT, WRONG = Judgement(verdict=Verdict.RIGHT), Judgement(verdict=Verdict.WRONG)


class Ear:
    """Implements FeedbackObserver: remembers."""

    def __init__(self) -> None:
        self.heard: list[Feedback] = []

    def note(self, feedback: Feedback) -> None:
        self.heard.append(feedback)


class Room:
    """Is an intake on a real log with two answers, "mine" of alice's and "theirs" of another tenant's bram."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.ear = Ear()
        self.log = self.store.started()
        self.reader = self.store.reader()
        self.intake = FeedbackIntake(log=self.log, records=self.reader, observer=self.ear, metrics=self.store.metrics)

    async def fill(self) -> None:
        await fill(self.log, "mine")
        await fill(self.log, "theirs", principal=BRAM)

    def count(self, name: str, **labels: str) -> float:
        return self.store.registry.get_sample_value(f"tandem_router_{name}_total", labels) or 0.0


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.store.close()


async def test_a_verdict_is_recorded_counted_and_heard(room: Room) -> None:
    await room.fill()
    said = Judgement(verdict=Verdict.WRONG, corrected_text="31 days", deflected_ticket=True)
    recorded = await room.intake.submit("mine", said, ALICE)
    assert (recorded.verdict, recorded.corrected_text, recorded.deflected_ticket) == (Verdict.WRONG, "31 days", True)
    assert (recorded.subject, recorded.policy, recorded.route.value) == ("alice", "rag", "rag")
    assert room.ear.heard == [recorded]
    assert room.count("feedback", policy="rag", route="rag", verdict="wrong") == 1
    assert room.count("deflected_tickets", policy="rag") == 1
    assert (await room.intake.list("halden", domain="", size=10, token="")).feedback == (recorded,)


@pytest.mark.parametrize("keep_text", [True, False])
async def test_what_is_repeated_is_recorded_once(room: Room, keep_text: bool) -> None:
    await room.fill()
    room.log.stop()
    room.log = room.store.started(keep_text=keep_text)
    room.intake = FeedbackIntake(log=room.log, records=room.reader, observer=room.ear, metrics=room.store.metrics)
    edited = Judgement(verdict=Verdict.EDITED, corrected_text="31 days", deflected_ticket=True)
    both = await asyncio.gather(*(room.intake.submit("mine", edited, ALICE) for _ in range(2)))
    assert both[0] == both[1]
    other = Judgement(verdict=Verdict.EDITED, corrected_text="32 days", deflected_ticket=True)
    for said in (other, other, edited, RIGHT, RIGHT):
        await room.intake.submit("mine", said, ALICE)
    await room.intake.submit("mine", RIGHT, OLGA)  # another person's is another verdict
    judged = await room.reader.judged("halden", "mine")
    assert [(one.number, one.verdict.value, one.subject) for one in judged.feedback] == [
        (1, "edited", "alice"), (2, "edited", "alice"), (3, "edited", "alice"), (4, "right", "alice"),
        (5, "right", "olga"),
    ]  # fmt: skip
    assert len(room.ear.heard) == 5
    assert room.count("deflected_tickets", policy="rag") == 1  # the answer saved one ticket


@pytest.mark.parametrize("caller", [BEN, BRAM, Principal("alice", "brightwater", frozenset(), frozenset({"operator"}))])
async def test_only_who_asked_or_an_operator_of_the_tenant_judges(room: Room, caller: Principal) -> None:
    await room.fill()
    with pytest.raises(NotFound):
        await room.intake.submit("mine", RIGHT, caller)
    with pytest.raises(NotFound):
        await room.intake.submit("nobody's", RIGHT, caller)
    assert (await room.intake.submit("mine", RIGHT, OLGA)).subject == "olga"


async def test_what_was_not_given_cannot_be_judged(room: Room) -> None:
    await room.log.open(opening("open"))
    with pytest.raises(FailedPrecondition) as caught:
        await room.intake.submit("open", RIGHT, ALICE)
    assert caught.value.reason == "ANSWER_NOT_GIVEN"
    with pytest.raises(NotFound):  # whoever may not judge it does not learn that it is not given either
        await room.intake.submit("open", RIGHT, BEN)


async def test_enough_is_enough_but_a_repetition_is_none(room: Room) -> None:
    await room.fill()
    for number in range(MAX_VERDICTS):
        await room.intake.submit("mine", (RIGHT, WRONG)[number % 2], ALICE)
    with pytest.raises(TooLarge) as caught:
        await room.intake.submit("mine", RIGHT, ALICE)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "TOO_MUCH_FEEDBACK")
    assert (await room.intake.submit("mine", WRONG, ALICE)).number == MAX_VERDICTS


async def test_a_start_tells_the_newest_verdicts_oldest_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.fill()
    for said in (RIGHT, WRONG, RIGHT):
        await room.intake.submit("mine", said, ALICE)
    await room.intake.submit("theirs", WRONG, BRAM)
    heard, room.ear.heard[:] = list(room.ear.heard), []
    monkeypatch.setattr("services.router.feedback.intake.MAX_RECALLED", 3)
    await room.intake.start()
    assert room.ear.heard == heard[1:]


CALLERS = st.builds(
    Principal,
    st.sampled_from(["alice", "bram", "olga"]),
    st.sampled_from(["halden", "brightwater", "", "halden "]),
    st.just(frozenset[str]()),
    st.frozensets(st.sampled_from(["user", "operator", "auditor", "platform"])),
)
OWNERS = {"mine": ALICE, "theirs": BRAM}


@given(st.lists(st.tuples(CALLERS, st.sampled_from(sorted(OWNERS)), st.sampled_from([RIGHT, WRONG])), max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_caller_of_another_tenant_reads_or_judges(acts: list[tuple[Principal, str, Judgement]]) -> None:
    async def play(room: Room) -> None:
        await room.fill()
        for caller, answer_id, said in acts:
            owner = OWNERS[answer_id]
            may = caller.tenant == owner.tenant and (caller.subject == owner.subject or "operator" in caller.roles)
            if may:
                recorded = await room.intake.submit(answer_id, said, caller)
                assert recorded.tenant == owner.tenant == caller.tenant
            else:
                with pytest.raises(NotFound):
                    await room.intake.submit(answer_id, said, caller)
            listed = (await room.intake.list(caller.tenant, domain="", size=100, token="")).feedback
            assert all(OWNERS[one.answer_id].tenant == caller.tenant for one in listed)
        assert all(report.first_fault_sequence is None for report in (await room.store.verify()).values())

    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder))
        try:
            asyncio.run(play(room))
        finally:
            room.store.close()
