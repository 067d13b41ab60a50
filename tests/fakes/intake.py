"""An intake without pipeline and store: takes documents in by their bytes, one at a time."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from services.retriever.domain import DocumentKey, Header, StoredDocument
from services.retriever.domain.uploads import Origin, Result, State, Timings, Upload
from tandem.security import Principal
from tests.fakes.retriever import FakeStore


class FakeIntake:
    """Implements the Intake port.

    Fails with `fault` while it is set, waits while `gate` is clear, and with `bug` on a document of that content.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.bug = b""
        self.held: dict[DocumentKey, Upload] = {}
        self.taken: list[tuple[str, str]] = []
        self.origins: list[Origin] = []
        self.num_runs = 0

    async def run(
        self,
        principal: Principal,
        uploads: AsyncIterator[Upload],
        timings: Timings,
        *,
        origin: Origin = Origin.STREAM,
    ) -> AsyncGenerator[Result, None]:
        """Yields a result for each document."""
        self.num_runs += 1
        self.origins.append(origin)
        async for upload in uploads:
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            if self.bug and upload.data == self.bug:
                raise ZeroDivisionError
            self.taken.append((principal.tenant, upload.document_id))
            digest = hashlib.sha256(upload.data).hexdigest()
            yield Result(upload.document_id, self._take(principal, upload), digest, num_chunks=1, error=upload.fault)

    def hold(self, tenant: str, upload: Upload) -> None:
        """Holds a document as if it had been taken in before."""
        self.held[DocumentKey(tenant, upload.document_id)] = upload

    def _take(self, principal: Principal, upload: Upload) -> State:
        if upload.fault is not None:
            return State.REJECTED
        key = DocumentKey(principal.tenant, upload.document_id)
        old = self.held.get(key)
        self.held[key] = upload
        same = old is not None and (old.data, old.header) == (upload.data, upload.header)
        return State.UNCHANGED if same else State.INDEXED


class StoreOf(FakeStore):
    """Shows the documents of an intake as a store does; nothing can be searched."""

    def __init__(self, intake: FakeIntake) -> None:
        super().__init__()
        self._intake = intake

    async def live(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, StoredDocument]:
        """Returns the documents that are held."""
        return {key: _stored(key, self._intake.held[key]) for key in keys if key in self._intake.held}

    async def page(self, principal: Principal, *, after: str, limit: int) -> list[StoredDocument]:
        """Returns a page."""
        rows = [_stored(key, upload) for key, upload in self._intake.held.items()]
        rows = [row for row in rows if row.open_to(principal) and row.key.document_id > after]
        return sorted(rows, key=lambda row: row.key.document_id)[:limit]

    async def remove(self, document: StoredDocument) -> None:
        """Removes a document."""
        del self._intake.held[document.key]


def _stored(key: DocumentKey, upload: Upload) -> StoredDocument:
    return StoredDocument(
        key=key,
        header=upload.header,
        version="",
        content_sha256="",
        header_sha256="",
        num_chunks=1,
        num_characters=1,
        update_time=1,
    )


def upload(document_id: str, text: str = "Some words.", **fields: object) -> Upload:
    """Returns a document in plain text."""
    header = Header(**{"source": f"{document_id}.txt", "media_type": "text/plain", **fields})  # type: ignore[arg-type]
    return Upload(document_id=document_id, header=header, data=text.encode())
