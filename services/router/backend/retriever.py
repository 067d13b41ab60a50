"""Passages from RetrieverService."""

from collections.abc import Sequence
from datetime import datetime

import grpc

from services.router.backend.breakers import Breaker
from services.router.backend.hedging import Hedge
from services.router.domain import LabelCondition, Passage, QueryVector, Span
from tandem.v1 import common_pb2, retriever_service_pb2, retriever_service_pb2_grpc


class PeerRetriever:
    """Implements services.router.domain.Retriever by RetrieverService."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker, hedge: Hedge) -> None:
        self._stub = retriever_service_pb2_grpc.RetrieverServiceStub(channel)
        self._breaker = breaker
        self._hedge = hedge

    async def search(
        self,
        query: str,
        *,
        vector: QueryVector | None,
        top_k: int,
        as_of: datetime | None,
        documents: Sequence[LabelCondition] = (),
        snapshot: str = "",
        timeout_s: float,
    ) -> tuple[Passage, ...]:
        """Returns passages, best first; raises TandemError."""
        mode = retriever_service_pb2.SEARCH_MODE_SPARSE if vector is None else retriever_service_pb2.SEARCH_MODE_HYBRID
        request = retriever_service_pb2.SearchRequest(query=query, top_k=top_k, mode=mode, snapshot=snapshot)
        if documents:
            request.filter.CopyFrom(narrowed(documents))
        if vector is not None:
            request.query_vector.extend(vector.values)
            request.query_model_sha256 = vector.model_sha256
        if as_of is not None:
            request.as_of.FromDatetime(as_of)
        with self._breaker.calling(timeout_s):
            response = await self._hedge.first(lambda s: self._stub.Search(request, timeout=s), timeout_s)
        return tuple(passage_of(passage) for passage in response.passages)


def narrowed(documents: Sequence[LabelCondition]) -> retriever_service_pb2.SearchFilter:
    """Returns the filter that keeps the documents for which all conditions hold."""
    return retriever_service_pb2.SearchFilter(
        attributes=[
            retriever_service_pb2.AttributeCondition(key=one.key, values=one.values, excluded=one.excluded)
            for one in documents
        ]
    )


def passage_of(passage: common_pb2.Passage) -> Passage:
    """Returns a passage as the router knows it."""
    return Passage(
        document_id=passage.document_id,
        chunk_id=passage.chunk_id,
        title=passage.title,
        text=passage.text,
        span=Span(passage.span.start, passage.span.end),
        source=passage.source,
        headings=tuple(passage.headings),
        page=passage.page if passage.HasField("page") else None,
        score=passage.score,
        dense_rank=passage.dense_rank if passage.HasField("dense_rank") else None,
        sparse_rank=passage.sparse_rank if passage.HasField("sparse_rank") else None,
        dense_score=passage.dense_score if passage.HasField("dense_score") else None,
    )
