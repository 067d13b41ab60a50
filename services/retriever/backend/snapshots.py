"""The catalogue of snapshots in <name>_meta, and the collections that hold their chunks.

The catalogue is one row. A change, promoting for one, inserts the next with a higher number, which counts from then on,
and then removes the earlier ones: an insertion is one step on every Milvus, replacing a row is not. A collection is
made before a catalogue names it and removed before none does any more, so that none names one that is not there.
"""

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.schema import Names, check_dimension, make_chunks, meta_row
from services.retriever.config import RetrieverConfig
from services.retriever.domain import INITIAL, Catalogue, EmbeddingModel, Snapshot, SnapshotState

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 60.0
# A search of another replica has ended by then, and it has long read that the snapshot is gone.
_GRACE_US = 60 * 1_000_000


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
        rows = self._rows(client, timeout=timeout)
        if not rows:
            first = Catalogue({INITIAL: self._initial()}, INITIAL)
            self._make(client, first.live, timeout=timeout)
            self._write(client, first, after=[], timeout=timeout)
        elif len(rows) > 1:  # a change was cut off
            client.delete(self._names.meta, ids=[str(row["id"]) for row in rows[:-1]], timeout=timeout)
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
        self.catalogue = _from_json(self._rows(client, timeout=timeout)[-1]["value"])
        return self.catalogue

    def change(self, client: Any, decide: Callable[[Catalogue], Catalogue], *, timeout: float) -> Catalogue:
        """Makes what decide returns the catalogue."""
        rows = self._rows(client, timeout=timeout)
        new = decide(_from_json(rows[-1]["value"]))
        self._write(client, new, after=[str(row["id"]) for row in rows], timeout=timeout)
        self.catalogue = new
        return new

    def _rows(self, client: Any, *, timeout: float) -> list[Any]:
        """Returns the catalogues that are there, the one that counts last."""
        where = 'id > "catalogue/" and id < "catalogue0"'
        rows = client.query(self._names.meta, filter=where, limit=1000, output_fields=["id", "value"], timeout=timeout)
        return sorted(rows, key=lambda row: str(row["id"]))

    def _write(self, client: Any, new: Catalogue, *, after: list[str], timeout: float) -> None:
        number = 1 + (int(after[-1].split("/")[1]) if after else 0)
        row = meta_row(f"catalogue/{number:012d}/{uuid.uuid4().hex}", _to_json(new))
        client.insert(self._names.meta, [row], timeout=timeout)
        if after:
            client.delete(self._names.meta, ids=after, timeout=timeout)

    def _make(self, client: Any, snapshot: Snapshot, *, timeout: float) -> None:
        name = self._names.chunks_of(snapshot.key)
        if name not in client.list_collections(timeout=timeout):
            config = replace(self._config, analyzer=snapshot.analyzer, dimension=snapshot.dimension)
            make_chunks(client, name, config=config, embedded=self._connection.embedded, timeout=timeout)
        client.load_collection(name, timeout=timeout)


def _to_json(catalogue: Catalogue) -> str:
    snapshots = [{**asdict(one), "state": one.state.value} for one in catalogue.snapshots.values()]
    return json.dumps({"live": catalogue.live_key, "previous": catalogue.previous_key, "snapshots": snapshots})


def _from_json(text: str) -> Catalogue:
    value = json.loads(text)
    snapshots = {row["key"]: _snapshot(row) for row in value["snapshots"]}
    return Catalogue(snapshots, value["live"], value["previous"])


def _snapshot(row: dict[str, Any]) -> Snapshot:
    model = EmbeddingModel(**row["model"]) if row["model"] else None
    return Snapshot(**{**row, "state": SnapshotState(row["state"]), "model": model})
