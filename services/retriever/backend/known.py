"""Documents as they were read last, kept while nobody but this process can change them: on Milvus Lite.

What is kept is what Milvus would answer. A document that a write is about to touch is forgotten before the write
begins, and nothing read meanwhile is kept, for it may be older than the write. A write that breaks off may still reach
Milvus at any time, so its documents are never kept again. All of it happens on the event loop, between two awaits.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from services.retriever.domain import SnapshotsChanged, StoredDocument

_MAX_DOCUMENTS = 4_096
_MAX_BROKEN_OFF = 65_536


class KnownDocuments:
    """Keeps documents by their rows' keys, the ones that were asked for lately."""

    def __init__(self, *, enabled: bool) -> None:
        self._kept: OrderedDict[str, tuple[str, StoredDocument]] | None = OrderedDict() if enabled else None
        self._changing: Counter[str] = Counter()
        self._reads: list[set[str]] = []  # what may have changed since each read that is under way began

    def of(self, rows: Iterable[str], *, live: str) -> dict[str, StoredDocument]:
        """Returns those that are kept as the live snapshot, named by its key, has them."""
        found: dict[str, StoredDocument] = {}
        if self._kept is None:
            return found
        for row in rows:
            held = self._kept.get(row)
            if held is not None and held[0] == live:
                self._kept.move_to_end(row)
                found[row] = held[1]
        return found

    @contextmanager
    def reading(self, *, live: str) -> Iterator[dict[str, StoredDocument]]:
        """Surrounds a read; the documents that are put into what it yields are kept, if they may be."""
        changed: set[str] = set()
        found: dict[str, StoredDocument] = {}
        self._reads.append(changed)
        try:
            yield found
        finally:
            self._reads = [one for one in self._reads if one is not changed]
        self._keep({row: one for row, one in found.items() if row not in changed}, live)

    def _keep(self, found: Mapping[str, StoredDocument], live: str) -> None:
        if self._kept is None:
            return
        for row, document in found.items():
            if row not in self._changing:
                self._kept[row] = live, document
        while len(self._kept) > _MAX_DOCUMENTS:
            self._kept.popitem(last=False)

    @contextmanager
    def changing(self, rows: Iterable[str]) -> Iterator[None]:
        """Surrounds a write of documents."""
        rows = list(rows)
        self._changing.update(rows)
        self._forget(rows)
        try:
            yield
        except SnapshotsChanged:  # nothing was written
            self._ended(rows)
            raise
        except BaseException:
            if len(self._changing) > _MAX_BROKEN_OFF:
                self._kept = None  # for good: nothing is kept any more, so what broke off need not be known
                self._changing.clear()
            raise
        self._ended(rows)

    def _forget(self, rows: Iterable[str]) -> None:
        for changed in self._reads:
            changed.update(rows)
        if self._kept is not None:
            for row in rows:
                self._kept.pop(row, None)

    def _ended(self, rows: Iterable[str]) -> None:
        self._forget(rows)
        for row in rows:
            self._changing[row] -= 1
            if self._changing[row] <= 0:
                del self._changing[row]
