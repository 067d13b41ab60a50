"""Any process may die by SIGKILL at any time: nothing acknowledged is lost, nobody is told INTERNAL, all comes back."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

from tandem.client import AsyncAuditClient, AsyncRetrieverClient, AsyncRouterClient, Upload
from tandem.errors import NotFound, TandemError
from tandem.v1 import audit_service_pb2 as audit
from tandem.v1 import retriever_service_pb2 as retriever
from tests.e2e.stack import Stack

# What a caller may be told while a part is away; DEADLINE_EXCEEDED would mean that it had to wait for that.
TYPED = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
POLICIES = ("rag", "cascade")
AFTER_KILL = 4


@dataclass
class Witness:
    """Is what the callers of one crash saw."""

    stored: dict[str, str] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    finished: dict[str, bool] = field(default_factory=dict)
    degraded: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def failed(self, error: TandemError) -> None:
        self.failures[error.code] += 1
        self.words.add(f"{error.code} {error.reason}: {error.message}")


async def ask_on(stack: Stack, seen: Witness, policy: str) -> None:
    """Asks one question after another until the end."""
    async with AsyncRouterClient(stack.address["router"], token=stack.tokens["erin"]) as client:
        while not seen.done.is_set():
            answer_id = ""
            try:
                async for event in client.stream("What is the excess for a windscreen?", policy=policy, timeout=60):
                    if event.HasField("started"):
                        answer_id = event.started.answer_id
                        seen.started.add(answer_id)
                    elif event.HasField("finished"):
                        answer = event.finished.answer
                        seen.finished[answer_id] = answer.abstained
                        seen.degraded.update(gap.component for gap in answer.degraded)
            except TandemError as error:
                seen.failed(error)
                await pause(seen)


async def store_on(stack: Stack, seen: Witness, label: str) -> None:
    """Ingests one small document after another until the end; a third of them replace the one before."""
    number = 0
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["loader"]) as client:
        while not seen.done.is_set():
            number += 1
            identity, word = f"crash-{label}-{number - number % 3}", f"quokka{label}{number}"
            upload = Upload(identity, "note.txt", f"The secret word of the day is {word}.".encode())
            try:
                async with contextlib.aclosing(client.ingest([upload], timeout=60)) as events:
                    async for event in events:
                        if event.HasField("result") and event.result.state == retriever.IngestResult.STATE_INDEXED:
                            seen.stored[identity] = word
            except TandemError as error:
                # Not acknowledged: the document may be the old one or the new one, so it is no longer looked for.
                seen.stored.pop(identity, None)
                seen.failed(error)
                await pause(seen)


async def pause(seen: Witness) -> None:
    """Does not ask again at once, as no caller should."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(seen.done.wait(), 0.3)


async def reached(count: int, what: set[str] | dict[str, object], tasks: list[asyncio.Task[None]]) -> None:
    """Waits until a collection has grown by count."""
    goal = len(what) + count
    async with asyncio.timeout(120):
        while len(what) < goal:
            assert not any(task.done() for task in tasks), "a caller ended early"
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("victim", ["embedder", "retriever", "store", "generator", "router"])
async def test_killing_a_service_loses_nothing(stack: Stack, victim: str, capsys) -> None:
    seen = Witness()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask_on(stack, seen, policy)) for policy in POLICIES for _ in range(2)]
        tasks.append(group.create_task(store_on(stack, seen, victim)))
        await reached(3, seen.finished, tasks)
        await reached(2, seen.stored, tasks)
        dead = stack.kill(victim)
        await stack.wait_ready("retriever" if victim == "store" else victim)
        await reached(AFTER_KILL, seen.finished, tasks)
        await reached(2, seen.stored, tasks)
        seen.done.set()
    assert dead != (stack.store_pid() if victim == "store" else stack.pids()[victim])
    with capsys.disabled():
        told = f"told {dict(seen.failures)}, degraded {dict(seen.degraded)}"
        print(f"\n  {victim}: {len(seen.finished)} answers, {len(seen.stored)} documents, {told}")
    assert set(seen.failures) <= TYPED, seen.words
    await check_documents(stack, seen)
    await check_records(stack, seen)


async def check_documents(stack: Stack, seen: Witness) -> None:
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["loader"]) as client:
        for identity, word in seen.stored.items():
            assert word in (await client.get_document(identity, include_text=True)).text
            found = await client.search(f"secret word {word}", mode=retriever.SEARCH_MODE_SPARSE)
            assert any(word in passage.text for passage in found.passages), f"{identity} is not found"


async def check_records(stack: Stack, seen: Witness) -> None:
    """Each answer has one opened and one closed record, and the chains are whole."""
    kinds: dict[str, list[audit.AuditRecord]] = defaultdict(list)
    async with AsyncAuditClient(stack.address["router"], token=stack.tokens["erin"]) as client:
        async for record in client.list_records():
            kinds[record.answer_id].append(record)
        chains = await client.verify()
    assert chains
    assert all(chain.intact for chain in chains), chains
    assert seen.started <= set(kinds)
    for answer_id, records in kinds.items():
        # Newest first.
        assert [record.kind for record in records] == [audit.AuditRecord.KIND_CLOSED, audit.AuditRecord.KIND_OPENED]
        outcome = records[0].outcome
        if answer_id in seen.finished:
            wanted = (
                audit.AuditRecord.OUTCOME_ABSTAINED if seen.finished[answer_id] else audit.AuditRecord.OUTCOME_ANSWERED
            )
            assert outcome == wanted
        else:
            assert outcome != audit.AuditRecord.OUTCOME_UNSPECIFIED


async def test_what_was_acknowledged_survives_the_loss_of_everything_at_once(stack: Stack) -> None:
    upload = Upload("crash-all", "note.txt", b"The secret word of the day is numbat.")
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["loader"]) as client:
        assert [event async for event in client.ingest([upload])][-1].finished.num_indexed == 1
    before = stack.pids()
    for victim in before:
        stack.kill(victim)
    for victim in before:
        await stack.wait_ready(victim)
    assert not set(before.values()) & set(stack.pids().values())
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["loader"]) as client:
        found = await client.search("secret word numbat")
        assert found.passages[0].document_id == "crash-all"
        assert await client.delete_document("crash-all") == 1
        with pytest.raises(NotFound):
            await client.get_document("crash-all")
    await check_records(stack, Witness())
