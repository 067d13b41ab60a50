"""The frames of an upload, put together to documents."""

import time
from collections.abc import AsyncGenerator, AsyncIterator

from services.retriever.domain import MAX_DOCUMENT_BYTES, Header, Unreadable
from services.retriever.domain.uploads import Upload
from services.retriever.servicer import checks
from tandem.errors import InvalidInput, TandemError
from tandem.v1 import retriever_service_pb2 as pb

Frame = pb.IngestDocumentsRequest | pb.CreateIngestJobRequest
_MAX_FRAME = 1024 * 1024


async def uploads(frames: AsyncIterator[Frame]) -> AsyncGenerator[Upload, None]:
    """Yields each document when the next header, or the end of the stream, has arrived."""
    open_document: _Assembly | None = None
    async for frame in frames:
        kind = frame.WhichOneof("frame")
        if kind == "header":
            if open_document is not None:
                yield open_document.upload()
            open_document = _Assembly(frame.header)
        elif kind == "data" and open_document is not None:
            open_document.add(frame.data)
        elif kind == "data":
            raise InvalidInput.of("data", "came before the first header")
        else:
            raise InvalidInput.of("frame", "is empty; a frame is a header or data")
    if open_document is not None:
        yield open_document.upload()


class _Assembly:
    """Is a document whose frames are arriving; one that is at fault keeps no bytes."""

    def __init__(self, message: pb.DocumentHeader) -> None:
        self._id = message.document_id
        self._header, self._fault = checks.header(message)
        self._pieces: list[bytes] = []
        self._size = 0
        self._appeared = time.time()

    def add(self, data: bytes) -> None:
        if len(data) > _MAX_FRAME:
            self._refuse(InvalidInput.of("data", f"has {len(data)} bytes; a frame has at most {_MAX_FRAME}"))
        self._size += len(data)
        self._appeared = time.time()
        if self._size > MAX_DOCUMENT_BYTES:
            self._refuse(Unreadable("TOO_LARGE", f"the document has more than {MAX_DOCUMENT_BYTES} bytes"))
        if self._fault is None:
            self._pieces.append(data)

    def _refuse(self, fault: TandemError) -> None:
        self._fault = self._fault or fault
        self._pieces.clear()

    def upload(self) -> Upload:
        header = self._header if self._fault is None else Header(source="", media_type="")
        return Upload(
            document_id=self._id,
            header=header,
            data=b"".join(self._pieces),
            fault=self._fault,
            appeared=self._appeared,
        )
