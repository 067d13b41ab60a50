"""The documents' rows, each of which is at every read in its old or in its new form.

On Milvus Lite replacing rows is removing them and then inserting others, and reads see what lies between. There the
reads of this process, which is the only one, wait while rows are replaced, and a replacement waits for the reads under
way. All of it is blocking, for threads.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from services.retriever.backend.rows import DOCUMENT_FIELDS, ROWS_PER_CALL, slices
from tandem.errors import Unavailable


class DocumentRows:
    """Reads and writes <name>_documents."""

    def __init__(self, name: str, *, embedded: bool) -> None:
        self._name = name
        self._embedded = embedded
        self._turn = threading.Condition()
        self._reading, self._replacing = 0, False

    def get(self, client: Any, ids: Sequence[str], *, timeout: float) -> list[Any]:
        """Returns those rows that are there."""
        found: list[Any] = []
        with self._read(timeout):
            for some in slices(ids, ROWS_PER_CALL):
                found += client.get(self._name, ids=some, output_fields=DOCUMENT_FIELDS, timeout=timeout)
        return found

    def page(self, client: Any, where: str, *, limit: int, timeout: float) -> list[Any]:
        """Returns the first rows, by primary key, that a filter allows."""
        with self._read(timeout):
            return list(
                client.query(self._name, filter=where, limit=limit, output_fields=DOCUMENT_FIELDS, timeout=timeout)
            )

    def count(self, client: Any, *, timeout: float) -> int:
        """Returns the number of rows."""
        with self._read(timeout):
            rows = client.query(self._name, filter='id > ""', output_fields=["count(*)"], timeout=timeout)
        return int(rows[0]["count(*)"])

    def write(self, client: Any, rows: Sequence[Mapping[str, Any]], *, timeout: float) -> None:
        """Writes rows, whether or not they are there."""
        with self._replace(timeout):
            for some in slices(rows, ROWS_PER_CALL):
                client.upsert(self._name, some, timeout=timeout)

    def insert(self, client: Any, rows: Sequence[Mapping[str, Any]], *, timeout: float) -> None:
        """Writes rows that are not there."""
        client.insert(self._name, rows, timeout=timeout)

    def delete(self, client: Any, row_id: str, *, timeout: float) -> None:
        """Removes a row."""
        client.delete(self._name, ids=[row_id], timeout=timeout)

    @contextmanager
    def _read(self, timeout: float) -> Iterator[None]:
        if not self._embedded:
            yield
            return
        with self._turn:
            self._wait(lambda: not self._replacing, timeout)
            self._reading += 1
        try:
            yield
        finally:
            with self._turn:
                self._reading -= 1
                self._turn.notify_all()

    @contextmanager
    def _replace(self, timeout: float) -> Iterator[None]:
        if not self._embedded:
            yield
            return
        with self._turn:
            self._wait(lambda: not self._replacing, timeout)
            self._replacing = True
        try:
            with self._turn:
                self._wait(lambda: self._reading == 0, timeout)
            yield
        finally:
            with self._turn:
                self._replacing = False
                self._turn.notify_all()

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        if not self._turn.wait_for(ready, timeout):
            raise Unavailable("documents are being replaced, and Milvus takes long", retry_after_s=1.0)
