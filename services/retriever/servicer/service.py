"""The servicer."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from services.retriever.domain.uploads import State, Timings
from services.retriever.engine import Documents, Searcher
from services.retriever.ingest.pipeline import Ingestion
from services.retriever.jobs.registry import Jobs
from services.retriever.servicer import checks, convert
from services.retriever.servicer.jobs import JobCalls
from services.retriever.servicer.snapshots import SnapshotCalls
from services.retriever.servicer.uploads import uploads
from services.retriever.snapshots import Keeper
from tandem.errors import TooLarge
from tandem.rpc import call
from tandem.v1 import retriever_service_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RetrieverService"].full_name
_ROOM = 4096  # of a message, for what is not counted

Context = grpc.aio.ServicerContext[Any, Any]


class RetrieverServicer(JobCalls, SnapshotCalls):
    """Serves searches, documents, one ingestion, its jobs, and the snapshots."""

    def __init__(
        self,
        *,
        searcher: Searcher,
        documents: Documents,
        ingestion: Ingestion,
        jobs: Jobs,
        keeper: Keeper,
        collection: str,
        max_message_bytes: int,
    ) -> None:
        self._searcher = searcher
        self._documents = documents
        self._ingestion = ingestion
        self._jobs = jobs
        self._keeper = keeper
        self._collection = collection
        self._max_bytes = max_message_bytes - _ROOM

    async def IngestDocuments(
        self, request_iterator: AsyncIterator[pb.IngestDocumentsRequest], context: Context
    ) -> AsyncGenerator[pb.IngestDocumentsResponse, None]:
        """Yields started, one result for each document, finished."""
        principal = call.require_role("editor")
        counts: Counter[State] = Counter()
        timings = Timings()
        async with aclosing(uploads(request_iterator)) as arriving:
            async with aclosing(self._ingestion.run(principal, arriving, timings)) as results:
                yield pb.IngestDocumentsResponse(started=pb.IngestStarted(collection=self._collection))
                async for result in results:
                    counts[result.state] += 1
                    yield pb.IngestDocumentsResponse(result=convert.ingest_result(result))
        finished = pb.IngestFinished(
            num_indexed=counts[State.INDEXED],
            num_unchanged=counts[State.UNCHANGED],
            num_rejected=counts[State.REJECTED],
            timings=[
                convert.timing("parse", timings.parse),
                convert.timing("embed", timings.embed),
                convert.timing("write", timings.write),
            ],
        )
        yield pb.IngestDocumentsResponse(finished=finished)

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        """Describes a document, with its text on request."""
        principal = call.require_role("user", "editor")
        document_id = checks.document_id(request.document_id)
        stored, text = await self._documents.get(principal, document_id, with_text=request.include_text)
        response = pb.GetDocumentResponse(document=convert.document(stored), text=text)
        self._check_size(response)
        return response

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """Returns a page of documents, shorter than asked for where they would not fit one message."""
        principal = call.require_role("user", "editor")
        after, size = checks.page(request)
        stored, more = await self._documents.page(principal, after=after, size=size)
        response = pb.ListDocumentsResponse()
        room = self._max_bytes
        for item in stored:
            message = convert.document(item)
            room -= message.ByteSize() + 8
            if room < 0 and response.documents:
                more = True
                break
            response.documents.append(message)
        if more:
            response.next_page_token = checks.page_token(response.documents[-1].document_id)
        return response

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Context) -> pb.DeleteDocumentResponse:
        """Removes a document."""
        principal = call.require_role("editor")
        num_chunks = await self._documents.delete(principal, checks.document_id(request.document_id))
        return pb.DeleteDocumentResponse(num_chunks=num_chunks)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Returns the best passages."""
        principal = call.require_role("user", "editor")
        if request.snapshot:
            call.require_role("platform")
        found = await self._searcher.search(principal, checks.wish(request))
        response = pb.SearchResponse(
            passages=[convert.passage(item) for item in found.passages],
            timings=[convert.timing(stage, seconds) for stage, seconds in found.seconds.items()],
            snapshot=found.snapshot_id,
        )
        self._check_size(response)
        return response

    def _check_size(self, response: Message) -> None:
        if response.ByteSize() > self._max_bytes:
            raise TooLarge("the answer does not fit one message; raise RETRIEVER_MAX_MESSAGE_BYTES or ask for less")
