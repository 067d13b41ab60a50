"""The catalogue of snapshots in <name>_meta, and the collections that hold their chunks.

A row for each snapshot and one, "live", that points: promoting is one upsert of that row. A collection is made before
its row and removed before its row is, so that no row ever names one that is not there.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.schema import NO_VECTOR, Names, check_dimension, make_chunks
from services.retriever.config import RetrieverConfig
from services.retriever.domain import INITIAL, Catalogue, EmbeddingModel, Snapshot, SnapshotState

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 60.0
# A search of another replica has ended by then, and it has long read that the snapshot is gone.
_GRACE_US = 60 * 1_000_000
_FROM_POINTER = (SnapshotState.LIVE, SnapshotState.RETIRED)


class SnapshotRows:
    """Keeps the catalogue in memory as it is in Milvus, and knows which snapshots are being searched."""

    def __init__(self, connection: MilvusConnection, names: Names, config: RetrieverConfig) -> None:
        self._connection = connection
        self._names = names
        self._config = config
        self._held: Counter[str] = Counter()
        # Until the store is open there is the first snapshot alone.
        self.catalogue = Catalogue({INITIAL: self._initial()}, INITIAL)

    def _initial(self) -> Snapshot:
        return Snapshot(
            key=INITIAL,
            snapshot_id=INITIAL,
            chunk_characters=self._config.chunk_characters,
            analyzer=self._config.analyzer,
            dimension=self._config.dimension,
            create_time=time.time_ns() // 1000,
            state=SnapshotState.LIVE,
        )

    @contextmanager
    def hold(self, snapshot_id: str) -> Iterator[Snapshot]:
        """Keeps a snapshot while it is searched; the live one for no id."""
        one = self.catalogue.searched(snapshot_id)
        self._held[one.key] += 1
        try:
            yield one
        finally:
            self._held[one.key] -= 1

    async def refresh(self) -> Catalogue:
        """Reads the catalogue anew."""

        def do(client: Any, timeout: float) -> Catalogue:
            return self.read(client, timeout=timeout)

        return await self._connection.call(do)

    async def make(self, snapshot: Snapshot) -> None:
        """Makes the collection of a snapshot."""

        def do(client: Any, timeout: float) -> None:
            self._make(client, snapshot, timeout=timeout)

        await self._connection.call(do)

    async def drop(self, snapshot: Snapshot) -> bool:
        """Removes the collection of a dropped snapshot once no search can be on it any more."""
        young = time.time_ns() // 1000 - snapshot.update_time < _GRACE_US
        if self._held[snapshot.key] or (young and not self._connection.embedded):
            return False

        def do(client: Any, timeout: float) -> None:
            name = self._names.chunks_of(snapshot.key)
            if name in client.list_collections(timeout=timeout):
                client.drop_collection(name, timeout=timeout)

        await self._connection.call(do)
        return True

    # -- inside a call: blocking, in a thread ------------------------------------------------------------------------

    def opened(self, client: Any) -> None:
        """Reads the catalogue, or makes that of a new collection, and readies what it names."""
        timeout = _OPEN_TIMEOUT_S
        if not client.get(self._names.meta, ids=["live"], output_fields=["id"], timeout=timeout):
            first = Catalogue({INITIAL: self._initial()}, INITIAL)
            self._make(client, first.live, timeout=timeout)
            self._write(client, None, first, timeout=timeout)
        catalogue = self.read(client, timeout=timeout)
        named = {self._names.chunks_of(key) for key in catalogue.snapshots}
        for name in client.list_collections(timeout=timeout):
            if name in named:
                client.load_collection(name, timeout=timeout)
            elif self._connection.embedded and name.startswith(self._names.chunks_of("")):
                client.drop_collection(name, timeout=timeout)  # made, and then its row was never written
        if len(catalogue.snapshots) == 1 and catalogue.live_key == INITIAL:
            check_dimension(client, self._names.chunks_of(INITIAL), config=self._config, timeout=timeout)

    def current(self, client: Any, *, timeout: float) -> Catalogue:
        """Returns the catalogue; on a server another replica may have changed it."""
        return self.catalogue if self._connection.embedded else self.read(client, timeout=timeout)

    def read(self, client: Any, *, timeout: float) -> Catalogue:
        """Reads the catalogue."""
        where = 'id > "snapshot/" and id < "snapshot0"'
        rows = client.query(self._names.meta, filter=where, limit=1000, output_fields=["value"], timeout=timeout)
        (pointer,) = client.get(self._names.meta, ids=["live"], output_fields=["value"], timeout=timeout)
        self.catalogue = _catalogue([json.loads(row["value"]) for row in rows], json.loads(pointer["value"]))
        return self.catalogue

    def change(self, client: Any, decide: Callable[[Catalogue], Catalogue], *, timeout: float) -> Catalogue:
        """Makes what decide returns the catalogue."""
        old = self.read(client, timeout=timeout)
        new = decide(old)
        self._write(client, old, new, timeout=timeout)
        self.catalogue = new
        return new

    def _write(self, client: Any, old: Catalogue | None, new: Catalogue, *, timeout: float) -> None:
        before = old.snapshots if old else {}
        changed = [one for key, one in new.snapshots.items() if before.get(key) != one]
        rows = [_row(one) for one in changed if one.state is not SnapshotState.DROPPED]
        # What the pointer names must be there before it points, and what it named must stay until then.
        pointer = _pointer(new)
        if old is None or pointer != _pointer(old):
            rows.append(pointer)
        rows += [_row(one) for one in changed if one.state is SnapshotState.DROPPED]
        for row in rows:
            client.upsert(self._names.meta, [row], timeout=timeout)
        if gone := [f"snapshot/{key}" for key in before if key not in new.snapshots]:
            client.delete(self._names.meta, ids=gone, timeout=timeout)

    def _make(self, client: Any, snapshot: Snapshot, *, timeout: float) -> None:
        name = self._names.chunks_of(snapshot.key)
        if name not in client.list_collections(timeout=timeout):
            config = replace(self._config, analyzer=snapshot.analyzer, dimension=snapshot.dimension)
            make_chunks(client, name, config=config, embedded=self._connection.embedded, timeout=timeout)
        client.load_collection(name, timeout=timeout)


def _row(snapshot: Snapshot) -> dict[str, Any]:
    value = asdict(snapshot)
    del value["promote_time"]  # the pointer's to tell, as is which of the whole ones is live or was
    value["state"] = (SnapshotState.READY if snapshot.state in _FROM_POINTER else snapshot.state).value
    key = f"snapshot/{snapshot.key}"
    return {"id": key, "value": json.dumps(value), "created": snapshot.create_time, "vector": NO_VECTOR}


def _pointer(catalogue: Catalogue) -> dict[str, Any]:
    promoted = {key: one.promote_time for key, one in catalogue.snapshots.items() if one.promote_time is not None}
    retired = [key for key, one in catalogue.snapshots.items() if one.state is SnapshotState.RETIRED]
    value = {
        "live": catalogue.live_key,
        "previous": catalogue.previous_key,
        "promoted": promoted,
        "retired": retired,
    }
    return {"id": "live", "value": json.dumps(value), "created": 0, "vector": NO_VECTOR}


def _catalogue(rows: list[dict[str, Any]], pointer: dict[str, Any]) -> Catalogue:
    snapshots = {}
    for row in rows:
        state, key = SnapshotState(row["state"]), row["key"]
        if key == pointer["live"]:
            state = SnapshotState.LIVE
        elif state is SnapshotState.READY and key in pointer["retired"]:
            state = SnapshotState.RETIRED
        model = EmbeddingModel(**row["model"]) if row["model"] else None
        promoted = pointer["promoted"].get(key)
        snapshots[key] = Snapshot(**{**row, "state": state, "model": model, "promote_time": promoted})
    previous = pointer["previous"]
    return Catalogue(snapshots, pointer["live"], previous if previous in snapshots else None)
