"""How fast the documents change, as RetrieverService lists them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import grpc

from services.router.backend.failures import failures
from services.router.domain import LabelCondition
from services.router.domain.advice import CollectionEvidence
from tandem.errors import DeadlineExceeded, TooLarge
from tandem.v1 import retriever_service_pb2, retriever_service_pb2_grpc

_MAX_DOCUMENT_PAGES = 10


class PeerDocuments:
    """Implements services.router.domain.Documents by RetrieverService."""

    def __init__(self, channel: grpc.aio.Channel, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stub = retriever_service_pb2_grpc.RetrieverServiceStub(channel)
        self._now = now

    async def changes(
        self, *, window_days: int, documents: Sequence[LabelCondition] = (), timeout_s: float
    ) -> CollectionEvidence:
        """Counts the documents that the caller may see and that meet all conditions.

        Raises TooLarge where the caller may see too many to look at.
        """
        since = self._now() - timedelta(days=window_days)
        moments: list[datetime] = []
        num_seen = 0
        token = ""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(_MAX_DOCUMENT_PAGES):
                    request = retriever_service_pb2.ListDocumentsRequest(page_size=1000, page_token=token)
                    with failures():
                        response = await self._stub.ListDocuments(request, timeout=timeout_s)
                    num_seen += len(response.documents)
                    moments += [
                        document.update_time.ToDatetime(tzinfo=UTC)
                        for document in response.documents
                        if all(_meets(document.attributes, condition) for condition in documents)
                    ]
                    token = response.next_page_token
                    if not token:
                        break
        except TimeoutError:
            raise DeadlineExceeded("the documents could not be counted in time") from None
        if token:
            raise TooLarge(f"more than {num_seen:,} documents are not counted")
        return CollectionEvidence(
            num_documents=len(moments),
            num_changed=sum(moment > since for moment in moments),
            window_days=window_days,
            settled=any(moment <= since for moment in moments),
        )


def _meets(labels: Mapping[str, str], condition: LabelCondition) -> bool:
    value = labels.get(condition.key)
    held = value is not None and (not condition.values or value in condition.values)
    return held is not condition.excluded
