"""Lets a server's reads see what has been acknowledged, without each of them waiting for it.

A read at consistency Strong waits for the server's next tick, about 200 ms; one at Bounded is answered from what the
server has taken in, in 2 ms. So the few writes wait instead of the many reads: a write is followed by a read of each
collection that it changed, at a moment after it, and acknowledged then. From then on reads of any replica see it.
(pymilvus' level Session would do for rows that are written, but it does not wait for those that are deleted.)
"""

from collections.abc import Callable
from typing import Any

STRONG = "Strong"
_AT_LEAST = "Customized"
_NO_ROW = "-"


class Consistent:
    """Is pymilvus' client during one call: reads are at the level given, and Strong where the call has written."""

    def __init__(self, client: Any, level: str) -> None:
        self._client = client
        self._level = level
        self._changed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get(self, name: str, **options: Any) -> Any:
        """Reads rows by key."""
        return self._client.get(name, **{"consistency_level": self._level_of(name), **options})

    def query(self, name: str, **options: Any) -> Any:
        """Reads rows by a filter."""
        return self._client.query(name, **{"consistency_level": self._level_of(name), **options})

    def search(self, name: str, **options: Any) -> Any:
        """Ranks rows."""
        return self._client.search(name, **{"consistency_level": self._level_of(name), **options})

    def insert(self, name: str, rows: Any, **options: Any) -> Any:
        """Writes rows that are not there."""
        return self._write(self._client.insert, name, rows, **options)

    def upsert(self, name: str, rows: Any, **options: Any) -> Any:
        """Writes rows."""
        return self._write(self._client.upsert, name, rows, **options)

    def delete(self, name: str, **options: Any) -> Any:
        """Removes rows."""
        return self._write(self._client.delete, name, **options)

    def drop_collection(self, name: str, **options: Any) -> Any:
        """Removes a collection, of which nothing is to be seen any more."""
        self._changed.discard(name)
        return self._client.drop_collection(name, **options)

    def wait_until_visible(self, timeout: Callable[[], float]) -> None:
        """Returns once every read sees what this call has written; timeout() tells how long it may still take."""
        if self._level == STRONG or not self._changed:
            return
        # One moment for all of them, so that they wait for the same tick; 0 lets each take its own.
        moment = self._client._handler.alloc_timestamp(timeout=timeout())
        for name in sorted(self._changed):
            self._client.get(
                name,
                ids=[_NO_ROW],
                output_fields=["id"],
                consistency_level=_AT_LEAST,
                guarantee_timestamp=moment,
                timeout=timeout(),
            )

    def _write(self, write: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
        self._changed.add(name)
        return write(name, *args, **options)

    def _level_of(self, name: str) -> str:
        return STRONG if name in self._changed else self._level
