"""Snapshots under everything at once: writes, builds, kills between any two changes, promotions, roll-backs, deletions.

The real store, ingestion, builder and keeper run on a Milvus in memory. Whatever happens, the live answers are those of
a dictionary, cut as the live snapshot cuts; and what is left after a restart is what the documents need, no row more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.retriever.chunking import cut
from services.retriever.domain import DocumentKey, Mode, SnapshotState, Wish
from tandem.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from tandem.security import Principal
from tests.fakes.retriever_life import LIMIT, Content, Life
from tests.fakes.retriever_milvus import FakeMilvus, Killed

CALLERS = [Principal("s", tenant, groups) for tenant in ("a", "b") for groups in (frozenset(), frozenset({"g"}))]
FILER = {tenant: Principal("f", tenant, frozenset({"g"})) for tenant in ("a", "b")}
KEYS = st.builds(DocumentKey, st.sampled_from("ab"), st.sampled_from(["d1", "d2", "d3", "d4"]))
TEXTS = (
    st.integers(1, 6)
    .flatmap(
        lambda size: st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=size, max_size=size)
    )
    .map(lambda names: "\n\n".join(f"Shared paragraph {number} says {name}." for number, name in enumerate(names)))
)
GROUPS = st.sampled_from([(), ("g",)])
DOCUMENTS = st.dictionaries(KEYS, st.tuples(TEXTS, GROUPS), min_size=1, max_size=3)
LIMITS = st.sampled_from([LIMIT, 100, 150])
NAMES = st.sampled_from(["x", "y", "initial"])
TURNS = st.integers(0, 60)
# How many changes more the process may make before it is killed; mostly it lives on.
CHANGES = st.sampled_from([None] * 8 + [0, 1, 2, 3, 4, 6])


class Inline(ThreadPoolExecutor):
    """Runs what is for a thread at once, so that a run can be repeated."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Snapshots(RuleBasedStateMachine):
    """Begins things without waiting for them; a document that is being changed is in doubt until it is acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(Inline())
        self.milvus = FakeMilvus()
        self.process = Life(self.milvus)
        self.oracle: dict[DocumentKey, Content] = {}
        self.doubt: dict[DocumentKey, set[Content | None]] = {}
        self.under_way: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.run(self.turns(200))
            self.kill_and_restart()
            self.run(self.settled())
        finally:
            self.run(self.process.stop())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.run(self.process.start())

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(documents=DOCUMENTS, turns=TURNS, changes=CHANGES)
    def write(self, documents: dict[DocumentKey, Content], turns: int, changes: int | None) -> None:
        fresh = {key: content for key, content in documents.items() if key not in self.doubt}
        for key, content in fresh.items():
            self.doubt[key] = {self.oracle.get(key), content}
        for tenant in {key.tenant for key in fresh}:
            self.begin_to(self.upload(tenant, fresh), turns, changes)

    async def upload(self, tenant: str, documents: dict[DocumentKey, Content]) -> None:
        some = {key.document_id: content for key, content in documents.items() if key.tenant == tenant}
        async for document_id in self.process.put(FILER[tenant], some):
            self.sure(DocumentKey(tenant, document_id), some[document_id])

    @rule(key=KEYS, turns=TURNS, changes=CHANGES)
    def delete(self, key: DocumentKey, turns: int, changes: int | None) -> None:
        async def delete() -> None:
            with suppress(NotFound):
                await self.process.documents.delete(FILER[key.tenant], key.document_id)
            self.sure(key, None)

        if key not in self.doubt:
            self.doubt[key] = {self.oracle.get(key), None}
            self.begin_to(delete(), turns, changes)

    @rule(name=NAMES, limit=LIMITS, turns=TURNS, changes=CHANGES)
    def create(self, name: str, limit: int, turns: int, changes: int | None) -> None:
        self.begin_to(self.process.keeper.create(name, chunk_characters=limit, analyzer=None), turns, changes)

    @rule(name=NAMES, turns=TURNS, changes=CHANGES)
    def promote(self, name: str, turns: int, changes: int | None) -> None:
        self.begin_to(self.process.keeper.promote(name), turns, changes)

    @rule(turns=TURNS, changes=CHANGES)
    def roll_back(self, turns: int, changes: int | None) -> None:
        self.begin_to(self.process.keeper.roll_back(), turns, changes)

    @rule(name=NAMES, turns=TURNS, changes=CHANGES)
    def drop(self, name: str, turns: int, changes: int | None) -> None:
        self.begin_to(self.process.keeper.delete(name), turns, changes)

    @rule(turns=st.integers(0, 150))
    def slow_down(self, turns: int) -> None:
        for embedder in self.process.embedders:
            embedder.turns = turns

    @rule(writes=st.booleans())
    def hold(self, writes: bool) -> None:
        """Lets nothing be embedded for writes, or for builds, until told otherwise."""
        (self.process.writes if writes else self.process.builds).gate.clear()

    @rule()
    def build(self) -> None:
        """Lets a build go on, and with luck end, while writes are where they are."""
        self.process.builds.gate.set()
        self.run(self.turns(300))

    @rule()
    def wait(self) -> None:
        """Lets all that is under way end, builds too."""
        self.run(self.ended_alive())

    @rule()
    def kill_and_restart(self) -> None:
        before = self.process
        self.run(before.stop())
        self.run(self.ended())
        self.process = after = Life(self.milvus)
        for old, new in zip(before.embedders, after.embedders, strict=True):
            new.turns = old.turns
            if not old.gate.is_set():
                new.gate.clear()
        self.run(self.process.start())
        for key, possible in list(self.doubt.items()):
            held = self.run(self.held(key))
            assert held in possible, (key, held, possible)
            self.sure(key, held)

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def live_answers_are_the_oracles(self) -> None:
        if self.process.client.dead:
            self.kill_and_restart()
        for caller in CALLERS:
            with suppress(Killed):
                self.run(self.check(caller, ""))

    async def check(self, caller: Principal, snapshot_id: str) -> None:
        for mode in (Mode.SPARSE, Mode.DENSE):
            possible = {**{key: {content} for key, content in self.oracle.items()}, **self.doubt}
            limits = {
                one.snapshot_id: one.chunk_characters for one in self.process.store.catalogue.listed if one.served
            }
            wish = Wish(query="shared", top_k=100, mode=mode, keep_duplicates=True, snapshot=snapshot_id)
            answer = await self.process.searcher.search(caller, wish)
            found: dict[DocumentKey, list[str]] = {}
            for passage in answer.passages:
                found.setdefault(passage.document.key, []).append(passage.text)
            for key in possible.keys() | found.keys():
                allowed = [
                    cuts(content, caller, key, limits[answer.snapshot_id]) for content in possible.get(key, {None})
                ]
                assert sorted(found.get(key, [])) in allowed, (caller, key, answer.snapshot_id)

    async def settled(self) -> None:
        """Checks, after a restart, every snapshot to the row."""
        await self.ended_alive()
        catalogue = self.process.store.catalogue
        states = {one.state for one in catalogue.snapshots.values()}
        assert states <= {SnapshotState.READY, SnapshotState.LIVE, SnapshotState.RETIRED}, catalogue
        rows = self.milvus.collections
        assert {name for name in rows if "_s_" in name} == {f"tandem_s_{key}" for key in catalogue.snapshots}
        for one in catalogue.written:
            for caller in CALLERS:
                await self.check(caller, one.snapshot_id)
            texts = [text for text, _ in self.oracle.values()]
            number = sum(len(cut(text, [], limit=one.chunk_characters)) for text in texts)
            assert len(rows[f"tandem_s_{one.key}"]) == number
        assert len(rows["tandem_documents"]) == len(self.oracle)
        assert len(rows["tandem_meta"]) == 2  # the schema and the catalogue; nothing of a write

    # -- how it is done --------------------------------------------------------------------------------------------

    def sure(self, key: DocumentKey, content: Content | None) -> None:
        del self.doubt[key]
        self.oracle.pop(key, None)
        if content is not None:
            self.oracle[key] = content

    def begin_to(self, work: Coroutine[Any, Any, Any], turns: int, changes: int | None) -> None:
        process = self.process
        if changes is not None:
            process.client.budget = changes

        async def begun() -> None:
            try:
                await work
            except (NotFound, AlreadyExists, FailedPrecondition):
                pass
            except (Killed, Unavailable):
                assert process.client.dead

        self.under_way.add(self.loop.create_task(begun()))
        self.run(self.turns(turns))

    async def ended(self) -> None:
        tasks, self.under_way = self.under_way, set()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)

    async def turns(self, number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    async def ended_alive(self) -> None:
        process = self.process
        process.client.budget = None
        for embedder in process.embedders:
            embedder.turns = 0
            embedder.gate.set()
        if not process.client.dead:
            await self.ended()
            await process.settled()

    async def held(self, key: DocumentKey) -> Content | None:
        document = (await self.process.store.live([key])).get(key)
        if document is None:
            return None
        return await self.process.store.text(document), tuple(document.header.groups)


def cuts(content: Content | None, caller: Principal, key: DocumentKey, limit: int) -> list[str]:
    """Returns what a caller is to find of a document."""
    if content is None or key.tenant != caller.tenant or (content[1] and not caller.groups):
        return []
    text = content[0]
    return sorted(text[chunk.start : chunk.end] for chunk in cut(text, [], limit=limit))


TestSnapshots = Snapshots.TestCase
TestSnapshots.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
