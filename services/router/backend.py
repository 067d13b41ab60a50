"""The peers: embedder, retriever and generator behind the router's ports.

The channels carry the router's own credential and the caller's identity. Failures come back as TandemError.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc

from services.router.domain import Generated, Lineage, Passage, Piece, QueryVector, Span, Usage
from services.router.domain.advice import CollectionEvidence
from tandem.errors import DeadlineExceeded, TooLarge, Unavailable
from tandem.prompts import Message
from tandem.rpc.status import from_rpc_error
from tandem.v1 import (
    common_pb2,
    embedder_service_pb2,
    embedder_service_pb2_grpc,
    generator_service_pb2,
    generator_service_pb2_grpc,
    retriever_service_pb2,
    retriever_service_pb2_grpc,
)

_MAX_ADAPTER_PAGES, _MAX_DOCUMENT_PAGES = 16, 10


class PeerEmbedder:
    """Implements services.router.domain.Embedder by EmbedderService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = embedder_service_pb2_grpc.EmbedderServiceStub(channel)

    async def embed(self, text: str, *, timeout_s: float) -> QueryVector:
        """Returns the vector of a text; raises TandemError."""
        with _failures():
            response = await self._stub.Embed(embedder_service_pb2.EmbedRequest(texts=[text]), timeout=timeout_s)
        if len(response.embeddings) != 1:
            raise Unavailable("the embedder returned no vector")
        return QueryVector(tuple(response.embeddings[0].values), response.lineage.model_sha256)


class PeerRetriever:
    """Implements services.router.domain.Retriever by RetrieverService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = retriever_service_pb2_grpc.RetrieverServiceStub(channel)

    async def search(
        self, query: str, *, vector: QueryVector | None, top_k: int, as_of: datetime | None, timeout_s: float
    ) -> tuple[Passage, ...]:
        """Returns passages, best first; raises TandemError."""
        mode = retriever_service_pb2.SEARCH_MODE_SPARSE if vector is None else retriever_service_pb2.SEARCH_MODE_HYBRID
        request = retriever_service_pb2.SearchRequest(query=query, top_k=top_k, mode=mode)
        if vector is not None:
            request.query_vector.extend(vector.values)
            request.query_model_sha256 = vector.model_sha256
        if as_of is not None:
            request.as_of.FromDatetime(as_of)
        with _failures():
            response = await self._stub.Search(request, timeout=timeout_s)
        return tuple(_passage(passage) for passage in response.passages)


class PeerDocuments:
    """Implements services.router.domain.Documents by RetrieverService."""

    def __init__(self, channel: grpc.aio.Channel, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stub = retriever_service_pb2_grpc.RetrieverServiceStub(channel)
        self._now = now

    async def changes(self, *, window_days: int, timeout_s: float) -> CollectionEvidence:
        """Counts the documents that the caller may see; raises TooLarge where they are too many to be counted."""
        since = self._now() - timedelta(days=window_days)
        moments: list[datetime] = []
        token = ""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(_MAX_DOCUMENT_PAGES):
                    request = retriever_service_pb2.ListDocumentsRequest(page_size=1000, page_token=token)
                    with _failures():
                        response = await self._stub.ListDocuments(request, timeout=timeout_s)
                    moments += [document.update_time.ToDatetime(tzinfo=UTC) for document in response.documents]
                    token = response.next_page_token
                    if not token:
                        break
        except TimeoutError:
            raise DeadlineExceeded("the documents could not be counted in time") from None
        if token:
            raise TooLarge(f"more than {len(moments):,} documents are not counted")
        return CollectionEvidence(
            num_documents=len(moments),
            num_changed=sum(moment > since for moment in moments),
            window_days=window_days,
            settled=any(moment <= since for moment in moments),
        )


class PeerGenerator:
    """Implements services.router.domain.Generator by GeneratorService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generator_service_pb2_grpc.GeneratorServiceStub(channel)

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields an empty piece once admitted, then pieces, Generated last; closing it cancels the sequence."""
        prompt = generator_service_pb2.ChatPrompt(
            messages=[generator_service_pb2.ChatMessage(role=m.role, content=m.content) for m in messages]
        )
        request = generator_service_pb2.GenerateRequest(
            chat=prompt, adapter=adapter, sampling=generator_service_pb2.Sampling(max_tokens=max_tokens)
        )
        call = self._stub.StreamGenerate(
            generator_service_pb2.StreamGenerateRequest(request=request), timeout=timeout_s
        )
        try:
            with _failures():
                async for event in call:
                    if event.HasField("started"):
                        yield Piece("", _lineage(event.started.lineage))
                    elif event.HasField("delta") and event.delta.text:
                        yield Piece(event.delta.text)
                    elif event.HasField("finished"):
                        yield _generated(event.finished)
        finally:
            call.cancel()

    async def adapters(self, *, timeout_s: float) -> frozenset[str]:
        """Returns the names of the adapters that the caller may use; raises TandemError."""
        names: set[str] = set()
        token = ""
        for _ in range(_MAX_ADAPTER_PAGES):
            request = generator_service_pb2.ListAdaptersRequest(page_size=1000, page_token=token)
            with _failures():
                response = await self._stub.ListAdapters(request, timeout=timeout_s)
            names.update(adapter.name for adapter in response.adapters)
            token = response.next_page_token
            if not token:
                break
        return frozenset(names)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _generated(finished: generator_service_pb2.GenerationFinished) -> Generated:
    return Generated(
        lineage=_lineage(finished.lineage),
        usage=Usage(finished.usage.input_tokens, finished.usage.output_tokens),
        mean_logprob=finished.mean_logprob,
    )


def _lineage(lineage: common_pb2.Lineage) -> Lineage:
    return Lineage(
        model=lineage.model,
        model_sha256=lineage.model_sha256,
        adapter=lineage.adapter,
        adapter_sha256=lineage.adapter_sha256,
        signer_key_id=lineage.signer_key_id,
        cipher=lineage.cipher,
        cipher_key_id=lineage.cipher_key_id,
    )


def _passage(passage: common_pb2.Passage) -> Passage:
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
    )
