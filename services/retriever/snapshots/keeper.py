"""Keeps the snapshots: does what operators ask for, and in the background builds, goes on with builds, and drops."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from services.retriever.domain import Catalogue, Snapshot, SnapshotState, SnapshotStore
from services.retriever.snapshots.builder import Builder, Models, waits
from tandem.errors import TandemError
from tandem.security import Principal

log = logging.getLogger(__name__)

_ABANDONED_US = 60 * 1_000_000  # a replica that builds tells of its progress far more often
_PAUSES_S = (1.0, 5.0, 15.0, 30.0)
_DIFF_PAGE = 500
_DIFF_PAGES = 20  # that one call looks through


@dataclass(frozen=True)
class Difference:
    """Is a document that two snapshots do not have alike; no chunks where it is missing."""

    document_id: str
    live_chunks: int
    snapshot_chunks: int


class Keeper:
    """Changes snapshots for operators and works for them in one task."""

    def __init__(
        self,
        *,
        store: SnapshotStore,
        builder: Builder,
        models: Models,
        chunk_characters: int,
        analyzer: str,
        refresh_seconds: float | None,
    ) -> None:
        """Makes snapshots as configured where not told otherwise; reads no catalogue anew without refresh_seconds."""
        self._store = store
        self._builder = builder
        self._models = models
        self._chunk_characters = chunk_characters
        self._analyzer = analyzer
        self._refresh_seconds = refresh_seconds
        self._wake = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._created: set[str] = set()
        self._building: tuple[str, asyncio.Task[None]] | None = None

    def start(self) -> None:
        """Begins the work in the background."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Breaks off; the next start goes on."""
        tasks = [task for task in (self._keeping, self._building and self._building[1]) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- for operators -------------------------------------------------------------------------------------------

    async def create(
        self, snapshot_id: str, *, chunk_characters: int | None, analyzer: str | None, as_of: int | None = None
    ) -> Snapshot:
        """Begins to build a snapshot with the newest model that is served."""
        now = _now()
        model = await self._models.newest()
        snapshot = Snapshot(
            key=uuid.uuid4().hex[:12],
            snapshot_id=snapshot_id,
            chunk_characters=chunk_characters or self._chunk_characters,
            analyzer=analyzer or self._analyzer,
            dimension=model.dimension,
            model=model,
            as_of=as_of,
            create_time=now,
            update_time=now,
            num_documents_total=await self._store.count(),
        )
        (await self._refreshed()).created(snapshot)  # refuses before anything is made
        await self._store.make(snapshot)
        self._created.add(snapshot.key)
        await self._change("created", snapshot_id, lambda catalogue: catalogue.created(snapshot))
        return snapshot

    async def get(self, snapshot_id: str) -> Snapshot:
        """Describes a snapshot."""
        return await self._counted((await self._refreshed()).named(snapshot_id))

    async def all(self) -> list[Snapshot]:
        """Describes all, the newest first."""
        return [await self._counted(one) for one in (await self._refreshed()).listed]

    async def diff(
        self, principal: Principal, snapshot_id: str, *, after: str, limit: int
    ) -> tuple[list[Difference], str]:
        """Returns differences of documents past an id that the principal may see, and the id to go on after or ""."""
        catalogue = await self._refreshed()
        live, other = catalogue.live.key, catalogue.named(snapshot_id).key
        found: list[Difference] = []
        for _ in range(_DIFF_PAGES):
            documents = await self._store.page(principal, after=after, limit=_DIFF_PAGE)
            for document in documents:
                after = document.key.document_id
                here, there = document.cuts.get(live), document.cuts.get(other)
                if here != there:
                    found.append(Difference(after, here.num_chunks if here else 0, there.num_chunks if there else 0))
                if len(found) == limit:
                    return found, after
            if len(documents) < _DIFF_PAGE:
                return found, ""
        return found, after

    async def promote(self, snapshot_id: str) -> Snapshot:
        """Makes a snapshot live; searches that began on the one before end on it."""
        await self._check_served((await self._refreshed()).named(snapshot_id))
        await self._change("promoted", snapshot_id, lambda catalogue: catalogue.promoted(snapshot_id, _now()))
        return await self.get(snapshot_id)

    async def roll_back(self) -> Snapshot:
        """Makes the snapshot live that was live before."""
        previous = (await self._refreshed()).rolled_back(_now()).live
        await self._check_served(previous)
        changed = await self._change(
            "live again", previous.snapshot_id, lambda catalogue: catalogue.rolled_back(_now())
        )
        return await self._counted(changed.live)

    async def _check_served(self, snapshot: Snapshot) -> None:
        """Raises FailedPrecondition for a snapshot that nobody could search, for its model is not served."""
        if snapshot.model is not None and snapshot.model != self._store.catalogue.live.model:
            await self._models.embed(["model"], model=snapshot.model)

    async def delete(self, snapshot_id: str) -> None:
        """Removes a snapshot, or gives up building it; its chunks go when no search is on them."""
        await self._change("deleted", snapshot_id, lambda catalogue: catalogue.dropped(snapshot_id, _now()))

    async def _change(self, what: str, snapshot_id: str, decide: Callable[[Catalogue], Catalogue]) -> Catalogue:
        changed = await self._store.change(decide)
        log.info("snapshot %s", what, extra={"snapshot": snapshot_id})
        self._wake.set()
        return changed

    async def _counted(self, snapshot: Snapshot) -> Snapshot:
        if not snapshot.served:
            return snapshot
        number = await self._store.count()
        return replace(snapshot, num_documents=number, num_documents_total=number)

    # -- in the background ---------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            pause = self._refresh_seconds
            try:
                await self._refreshed()
                self._attend()
                if await self._drop():
                    pause = _PAUSES_S[0]
                failures = 0
            except Exception as error:  # noqa: BLE001 -- a task root: whatever fails, the next try may not
                pause = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
                failures += 1
                log.warning("cannot look after snapshots", extra={"error": type(error).__name__})
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _refreshed(self) -> Catalogue:
        if self._refresh_seconds is not None:
            await self._store.refresh()
        return self._store.catalogue

    def _attend(self) -> None:
        """Ends the build of what is to be built no more; begins one that nobody is at."""
        wanted = [one for one in self._store.catalogue.listed if one.state is SnapshotState.BUILDING]
        if self._building is not None:
            key, task = self._building
            if task.done() or key not in {one.key for one in wanted}:
                task.cancel()
                self._building = None
        for one in wanted:
            ours = self._refresh_seconds is None or one.key in self._created
            if self._building is None and (ours or _now() - one.update_time > _ABANDONED_US):
                task = asyncio.create_task(self._build(one))
                task.add_done_callback(self._ended)
                self._building = one.key, task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the build of a snapshot broke off", extra={"error": type(error).__name__})
            self._wake.set()

    async def _drop(self) -> bool:
        """Removes what is dropped as far as nothing is on it; tells whether something is left."""
        dropped = [one for one in self._store.catalogue.snapshots.values() if one.state is SnapshotState.DROPPED]
        left = False
        for one in dropped:
            if await self._store.drop(one):
                await self._store.change(partial(Catalogue.without, key=one.key))
            else:
                left = True
        return left

    async def _build(self, snapshot: Snapshot) -> None:
        key, failures = snapshot.key, 0
        while True:
            try:
                started = _now()
                await self._builder.build(snapshot, lambda number: self._report(key, number))
                if self._refresh_seconds is None or started - snapshot.create_time > _ABANDONED_US:
                    await self._change("built", snapshot.snapshot_id, lambda catalogue: catalogue.built(key, _now()))
                    return
                # Another replica may be at a write that it began before it could know of this snapshot.
                await asyncio.sleep(_PAUSES_S[-1])
                continue
            except TandemError as error:
                if not waits(error):
                    await self._fail(snapshot, error.message)
                    return
                about = {"snapshot": snapshot.snapshot_id, "error": error.code}
                log.warning("the build of a snapshot waits", extra=about)
            except Exception as error:  # a task root: a bug must not leave it building for ever
                log.exception("the build of a snapshot failed", extra={"snapshot": snapshot.snapshot_id})
                await self._fail(snapshot, f"internal error ({type(error).__name__})")
                return
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    async def _fail(self, snapshot: Snapshot, message: str) -> None:
        await self._change("failed", snapshot.snapshot_id, lambda one: one.failed(snapshot.key, message, _now()))

    async def _report(self, key: str, number: int) -> None:
        total = await self._store.count()

        def progress(catalogue: Catalogue) -> Catalogue:
            one = catalogue.snapshots.get(key)
            if one is None or one.state is not SnapshotState.BUILDING:
                return catalogue
            now = _now()
            return catalogue.with_one(replace(one, num_documents=number, num_documents_total=total, update_time=now))

        await self._store.change(progress)


def _now() -> int:
    return time.time_ns() // 1000
