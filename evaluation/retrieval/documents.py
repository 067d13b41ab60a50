"""Files a corpus as the caller's documents under a label of its own, keeps it in step, and removes it again."""

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from evaluation.retrieval.beir import Benchmark, Entry
from tandem.client import AsyncRetrieverClient, Upload
from tandem.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from tandem.v1 import retriever_service_pb2 as retriever

LABEL = "evaluation"
"""The attribute that marks a document as part of a measured corpus; its value is the corpus' name."""
Progress = Callable[[str, int, int], None]
_BATCH, _STREAM_TIMEOUT_S = 256, 600.0
_MAX_TITLE = 512
_TRIES, _PAUSE_S = 6, 2.0
_REMOVALS_AT_ONCE = 8
_SHOWN = 5


@dataclass
class Filed:
    """Tells what became of a corpus."""

    num_indexed: int = 0
    num_unchanged: int = 0
    num_chunks: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Document of the corpus and why it was not taken."""
    empty: list[str] = field(default_factory=list)
    """Documents without any text."""
    num_removed: int = 0
    """Documents of an earlier version of this corpus."""
    seconds: float = 0.0

    def notes(self) -> list[str]:
        """Returns what a reader of the figures should know."""
        told = []
        if self.empty:
            told.append(f"{len(self.empty)} documents are empty and can never be found: {_some(self.empty)}")
        if self.rejected:
            shown = _some([f"{name} ({why})" for name, why in self.rejected])
            told.append(f"{len(self.rejected)} documents were rejected and can never be found: {shown}")
        return told


class Shelf:
    """Is where the documents of one corpus lie in a retriever."""

    def __init__(self, client: AsyncRetrieverClient, name: str, *, groups: Sequence[str] = ()) -> None:
        self._client = client
        self.name = slug(name)
        self._prefix = f"{LABEL}.{self.name}."
        self._groups = tuple(groups)

    def filter(self) -> retriever.SearchFilter:
        """Returns what keeps a search to this corpus."""
        return retriever.SearchFilter(attributes=[retriever.AttributeCondition(key=LABEL, values=[self.name])])

    def document_id(self, name: str) -> str:
        """Returns the id that a document of the corpus has here."""
        return self._prefix + hashlib.sha256(name.encode()).hexdigest()[:24]

    async def fill(self, benchmark: Benchmark, on_progress: Progress) -> Filed:
        """Makes the retriever hold this corpus and no other documents under its name.

        Everything is sent; what is there already in the same form costs the retriever a comparison. A broken stream is
        taken up where its acknowledgements ended.
        """
        filed = Filed()
        return await self.put(benchmark.documents, self._with_text(benchmark, filed), filed, on_progress)

    async def put(
        self, names: Collection[str], uploads: Iterator[tuple[str, Upload]], filed: Filed, on_progress: Progress
    ) -> Filed:
        """Does the same with uploads of these names; their ids and labels are replaced by those that they have here."""
        started = asyncio.get_running_loop().time()
        wanted = {self.document_id(name) for name in names}
        old = [document_id for document_id in await self._held() if document_id not in wanted]
        filed.num_removed = await self._remove(old, "removing what the corpus no longer has", on_progress)
        while batch := deque(islice(uploads, _BATCH)):
            await self._send(batch, filed, lambda: on_progress("ingesting", _count(filed), len(wanted)))
        filed.seconds = asyncio.get_running_loop().time() - started
        return filed

    async def clear(self, on_progress: Progress) -> int:
        """Removes every document of this corpus that the caller may see, and returns how many there were."""
        return await self._remove(await self._held(), "removing the corpus", on_progress)

    def _with_text(self, benchmark: Benchmark, filed: Filed) -> Iterator[tuple[str, Upload]]:
        for entry in benchmark.entries():
            if entry.text.strip() or entry.title.strip():
                yield entry.name, _upload(entry)
            else:
                filed.empty.append(entry.name)

    async def _send(self, batch: deque[tuple[str, Upload]], filed: Filed, told: Callable[[], None]) -> None:
        """Sends documents until each has its result; raises where a stream breaks again and again without any."""
        tries = 0
        while batch:
            before = len(batch)
            try:
                await self._stream(batch, filed, told)
            except (Unavailable, Overloaded, DeadlineExceeded) as error:
                tries = 0 if len(batch) < before else tries + 1
                if tries == _TRIES:
                    raise
                await asyncio.sleep(max(_PAUSE_S, error.retry_after_s if isinstance(error, Overloaded) else 0.0))

    async def _stream(self, batch: deque[tuple[str, Upload]], filed: Filed, told: Callable[[], None]) -> None:
        uploads = [self._labelled(name, upload) for name, upload in batch]
        events: AsyncIterator[retriever.IngestDocumentsResponse] = self._client.ingest(
            uploads, timeout=_STREAM_TIMEOUT_S
        )
        async for event in events:
            if event.WhichOneof("event") != "result":
                continue
            result, (name, _) = event.result, batch.popleft()
            filed.num_chunks += result.num_chunks
            filed.num_indexed += result.state == retriever.IngestResult.STATE_INDEXED
            filed.num_unchanged += result.state == retriever.IngestResult.STATE_UNCHANGED
            if result.state == retriever.IngestResult.STATE_REJECTED:
                filed.rejected.append((name, result.error.message))
            told()

    def _labelled(self, name: str, upload: Upload) -> Upload:
        attributes = {**upload.attributes, LABEL: self.name}
        return replace(upload, document_id=self.document_id(name), groups=self._groups, attributes=attributes)

    async def _held(self) -> list[str]:
        return [
            document.document_id
            async for document in self._client.list_documents()
            if document.document_id.startswith(self._prefix)
        ]

    async def _remove(self, document_ids: Sequence[str], what: str, on_progress: Progress) -> int:
        waiting, done = deque(document_ids), 0

        async def work() -> None:
            nonlocal done
            while waiting:
                await self._remove_one(waiting.popleft())
                done += 1
                on_progress(what, done, len(document_ids))

        await side_by_side(work, min(_REMOVALS_AT_ONCE, len(document_ids)))
        return done

    async def _remove_one(self, document_id: str) -> None:
        for attempt in range(_TRIES):
            try:
                await self._client.delete_document(document_id)
            except NotFound:  # a try before that was cut off had done it
                return
            except (Unavailable, Overloaded, DeadlineExceeded) as error:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(max(_PAUSE_S, error.retry_after_s if isinstance(error, Overloaded) else 0.0))
            else:
                return


def _upload(entry: Entry) -> Upload:
    # Where there is no title the source takes its place in front of every chunk, hence one that says nothing.
    return Upload(
        document_id=entry.name,
        source="-",
        media_type="text/plain",
        data=(entry.text if entry.text.strip() else entry.title).encode(),
        title=" ".join(entry.title.split())[:_MAX_TITLE],
    )


def slug(name: str) -> str:
    """Returns a name as document ids and labels may have it."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:48] or "corpus"


async def side_by_side(work: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    """Does the work so many times at once; the first failure ends all and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(work())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _count(filed: Filed) -> int:
    return filed.num_indexed + filed.num_unchanged + len(filed.rejected) + len(filed.empty)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
