"""Versions of the collection: which there are, which one is live, and how another takes its place.

    BUILDING ──▶ READY ──promote──▶ LIVE ──promote another, roll back──▶ RETIRED ──promote, roll back──▶ LIVE
        └──▶ FAILED                        each but LIVE ──delete──▶ DROPPED (forgotten when its chunks are gone)

A catalogue never changes; each step returns another one, or raises and says what to do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from services.retriever.domain.models import EmbeddingModel
from tandem.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound

INITIAL = "initial"
MAX_SNAPSHOTS = 8
_ID = re.compile(r"[a-z][a-z0-9-]{0,31}")


class SnapshotState(Enum):
    """Is where a snapshot stands."""

    BUILDING = "building"
    READY = "ready"
    LIVE = "live"
    RETIRED = "retired"
    FAILED = "failed"
    DROPPED = "dropped"


_SERVED = (SnapshotState.READY, SnapshotState.LIVE, SnapshotState.RETIRED)
_WRITTEN = (SnapshotState.BUILDING, *_SERVED)


@dataclass(frozen=True)
class Snapshot:
    """Is one version of the collection. key names its chunks and is never used again; snapshot_id is the operator's.

    model is None until the first document of a new collection. as_of is the moment of searches that name none, which is
    otherwise the time of the search. The numbers tell how far its building is.
    """

    key: str
    snapshot_id: str
    chunk_characters: int
    analyzer: str
    dimension: int
    create_time: int
    model: EmbeddingModel | None = None
    state: SnapshotState = SnapshotState.BUILDING
    num_documents: int = 0
    num_documents_total: int = 0
    update_time: int = 0
    promote_time: int | None = None
    as_of: int | None = None
    error: str = ""

    @property
    def served(self) -> bool:
        """Tells whether it holds every document, so that it can be searched and promoted."""
        return self.state in _SERVED

    @property
    def written(self) -> bool:
        """Tells whether changes of documents must reach it."""
        return self.state in _WRITTEN


class SnapshotsChanged(FailedPrecondition):
    """Says that a document was prepared for other snapshots than there are now; prepare it again."""

    def __init__(self) -> None:
        super().__init__("the snapshots have just changed; try again", reason="SNAPSHOTS_CHANGED")


@dataclass(frozen=True)
class Catalogue:
    """Is all snapshots by key; live and previous are keys, previous that of the one to roll back to."""

    snapshots: Mapping[str, Snapshot]
    live_key: str
    previous_key: str | None = None

    @property
    def live(self) -> Snapshot:
        """The snapshot that searches see."""
        return self.snapshots[self.live_key]

    @property
    def written(self) -> tuple[Snapshot, ...]:
        """Those that changes of documents must reach, the live one first."""
        others = [one for one in self.snapshots.values() if one.written and one.key != self.live_key]
        return self.live, *others

    @property
    def listed(self) -> list[Snapshot]:
        """Those that are not deleted, the newest first."""
        rows = [one for one in self.snapshots.values() if one.state is not SnapshotState.DROPPED]
        return sorted(rows, key=lambda one: (-one.create_time, one.key))

    def named(self, snapshot_id: str) -> Snapshot:
        """Returns a snapshot by its id; raises NotFound."""
        for one in self.listed:
            if one.snapshot_id == snapshot_id:
                return one
        raise NotFound(f"there is no snapshot {snapshot_id!r}")

    def searched(self, snapshot_id: str) -> Snapshot:
        """Returns the one that a search is about, the live one for no id; raises FailedPrecondition for half ones."""
        one = self.named(snapshot_id) if snapshot_id else self.live
        if not one.served:
            raise FailedPrecondition(
                f"snapshot {snapshot_id!r} is {one.state.value}; only a whole one can be searched",
                reason="SNAPSHOT_NOT_READY",
            )
        return one

    def with_one(self, snapshot: Snapshot) -> "Catalogue":
        """Returns the catalogue with this snapshot added or replaced."""
        return replace(self, snapshots={**self.snapshots, snapshot.key: snapshot})

    def without(self, key: str) -> "Catalogue":
        """Returns the catalogue without a snapshot whose chunks are gone."""
        return replace(self, snapshots={k: one for k, one in self.snapshots.items() if k != key})

    def adopted(self, model: EmbeddingModel) -> "Catalogue":
        """Records the model of a live snapshot that has held no vectors so far."""
        return self.with_one(replace(self.live, model=model)) if self.live.model is None else self

    def created(self, snapshot: Snapshot) -> "Catalogue":
        """Adds a snapshot to be built."""
        if not _ID.fullmatch(snapshot.snapshot_id):
            raise InvalidInput.of("snapshot_id", "must have 1 to 32 characters of a-z 0-9 -, the first a letter")
        if any(one.snapshot_id == snapshot.snapshot_id for one in self.listed):
            raise AlreadyExists(f"there is a snapshot {snapshot.snapshot_id!r} already; delete it or choose a new name")
        for one in self.listed:
            if one.state is SnapshotState.BUILDING:
                raise FailedPrecondition(
                    f"snapshot {one.snapshot_id!r} is being built; wait for it or delete it", reason="SNAPSHOT_BUILDING"
                )
        if len(self.listed) >= MAX_SNAPSHOTS:
            raise FailedPrecondition(
                f"there are {MAX_SNAPSHOTS} snapshots, each of which costs every write; delete one first",
                reason="TOO_MANY_SNAPSHOTS",
            )
        return self.with_one(snapshot)

    def built(self, key: str, now: int) -> "Catalogue":
        """Declares a snapshot whole; one that was given up meanwhile stays so."""
        one = self.snapshots.get(key)
        if one is None or one.state is not SnapshotState.BUILDING:
            return self
        return self.with_one(replace(one, state=SnapshotState.READY, update_time=now))

    def failed(self, key: str, error: str, now: int) -> "Catalogue":
        """Gives up a snapshot that cannot be completed or kept up to date; never the live one."""
        one = self.snapshots.get(key)
        if one is None or not one.written or key == self.live_key:
            return self
        failed = self.with_one(replace(one, state=SnapshotState.FAILED, error=error, update_time=now))
        return replace(failed, previous_key=None if self.previous_key == key else self.previous_key)

    def promoted(self, snapshot_id: str, now: int) -> "Catalogue":
        """Makes a snapshot live; the one before it can be rolled back to, older retired ones go."""
        one = self.named(snapshot_id)
        if one.key == self.live_key:
            return self
        if not one.served:
            why = f": {one.error}" if one.error else ""
            raise FailedPrecondition(
                f"snapshot {snapshot_id!r} is {one.state.value}{why}; only one that is ready can be promoted",
                reason="SNAPSHOT_NOT_READY",
            )
        gone = {
            key: replace(other, state=SnapshotState.DROPPED, update_time=now)
            for key, other in self.snapshots.items()
            if other.state is SnapshotState.RETIRED and key != one.key
        }
        return replace(self, snapshots={**self.snapshots, **gone})._now_live(one.key, self.live_key, now)

    def rolled_back(self, now: int) -> "Catalogue":
        """Makes the snapshot live again that was live before."""
        if self.previous_key is None or not self.snapshots[self.previous_key].served:
            raise FailedPrecondition("there is no earlier snapshot to go back to", reason="NO_EARLIER_SNAPSHOT")
        return self._now_live(self.previous_key, None, now)

    def _now_live(self, key: str, previous: str | None, now: int) -> "Catalogue":
        old, new = self.live, self.snapshots[key]
        changed = {
            old.key: replace(old, state=SnapshotState.RETIRED),
            key: replace(new, state=SnapshotState.LIVE, promote_time=now),
        }
        return Catalogue(snapshots={**self.snapshots, **changed}, live_key=key, previous_key=previous)

    def dropped(self, snapshot_id: str, now: int) -> "Catalogue":
        """Deletes a snapshot, or gives up building it."""
        one = self.named(snapshot_id)
        if one.key == self.live_key:
            raise FailedPrecondition(
                f"snapshot {snapshot_id!r} is live; promote another one before it is deleted", reason="SNAPSHOT_LIVE"
            )
        marked = self.with_one(replace(one, state=SnapshotState.DROPPED, update_time=now))
        return replace(marked, previous_key=None if self.previous_key == one.key else self.previous_key)
