"""The documents of a stream that are in the service at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.retriever.domain import MAX_DOCUMENT_BYTES
from services.retriever.domain.uploads import Result, Upload


@dataclass(frozen=True)
class Limits:
    """Bounds what is under way; chunk_characters is only recorded here, the parser cuts."""

    streams: int
    documents: int
    bytes: int
    chunk_characters: int
    embed_batch_texts: int = 64
    embed_concurrency: int = 2
    write_batch_chunks: int = 500
    write_batch_documents: int = 64

    def background(self) -> "Limits":
        """Returns the bounds of one stream of a job or a live source, which leaves room for callers that wait."""
        return replace(self, documents=min(self.documents, 16), bytes=min(self.bytes, MAX_DOCUMENT_BYTES))


class Window:
    """Holds the documents of one stream that are in the service, in the order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rows: deque[tuple[asyncio.Task[Result], int]] = deque()
        self._latest: dict[str, asyncio.Task[Result]] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def head(self) -> asyncio.Task[Result]:
        """The document that arrived first."""
        return self._rows[0][0]

    @property
    def full(self) -> bool:
        """Tells whether no more documents may come in for now."""
        return len(self._rows) >= self._limits.documents or self._bytes >= self._limits.bytes

    def push(self, upload: Upload, begin: Callable[[asyncio.Task[Result] | None], asyncio.Task[Result]]) -> None:
        """Begins a document; begin gets the task of an earlier one with the same id, to wait for."""
        task = begin(self._latest.get(upload.document_id))
        self._latest[upload.document_id] = task
        self._rows.append((task, len(upload.data)))
        self._bytes += len(upload.data)

    def pop(self) -> Result:
        """Returns the head's result, or raises what it raised; the head is done."""
        task, size = self._rows.popleft()
        self._bytes -= size
        result = task.result()
        if self._latest.get(result.document_id) is task:
            del self._latest[result.document_id]
        return result

    async def cancel(self) -> None:
        """Ends what is under way."""
        tasks = [task for task, _ in self._rows]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
