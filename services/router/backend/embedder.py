"""Vectors from EmbedderService."""

import grpc

from services.router.backend.breakers import Breaker
from services.router.backend.hedging import Hedge
from services.router.domain import QueryVector
from tandem.errors import Unavailable
from tandem.v1 import embedder_service_pb2, embedder_service_pb2_grpc


class PeerEmbedder:
    """Implements services.router.domain.Embedder by EmbedderService."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker, hedge: Hedge) -> None:
        self._stub = embedder_service_pb2_grpc.EmbedderServiceStub(channel)
        self._breaker = breaker
        self._hedge = hedge

    async def embed(self, text: str, *, timeout_s: float) -> QueryVector:
        """Returns the vector of a text; raises TandemError."""
        request = embedder_service_pb2.EmbedRequest(texts=[text])
        with self._breaker.calling(timeout_s):
            response = await self._hedge.first(lambda s: self._stub.Embed(request, timeout=s), timeout_s)
        if len(response.embeddings) != 1:
            raise Unavailable("the embedder returned no vector")
        return QueryVector(tuple(response.embeddings[0].values), response.lineage.model_sha256)
