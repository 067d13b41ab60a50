"""The embedder port on the embedder service."""

import asyncio
from collections.abc import Sequence

import grpc

from services.retriever.domain import Embedded, EmbeddingModel
from tandem.errors import Internal, Overloaded
from tandem.rpc.status import from_rpc_error
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc

_MAX_TEXTS = 512
_MAX_CHARACTERS = 32_768
_PATIENCE_S = 60.0


class EmbedderPeer:
    """Embeds through a channel that this object does not own."""

    def __init__(self, channel: grpc.aio.Channel, *, patient: bool = False) -> None:
        """Serves an ingestion when patient: an embedder whose queue is full is asked again for a minute."""
        self._stub = pb_grpc.EmbedderServiceStub(channel)
        self._patience_s = _PATIENCE_S if patient else 0.0

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Returns a vector for each text; raises what the embedder reports, Unavailable when it is not there."""
        patience = self._patience_s
        while True:
            try:
                return await self._embed(texts)
            except Overloaded as error:
                if patience <= 0:
                    raise
                pause = min(max(error.retry_after_s, 0.05), 5.0)
                patience -= pause
                await asyncio.sleep(pause)

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Returns a score for each text; raises what the embedder reports."""
        some = [text[:_MAX_CHARACTERS] for text in texts]
        try:
            answer = await self._stub.Rerank(pb.RerankRequest(query=query, texts=some))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if len(answer.scores) != len(texts):
            raise Internal("the embedder gave another number of scores than it was given texts")
        return answer.scores

    async def _embed(self, texts: Sequence[str]) -> Embedded:
        vectors: list[Sequence[float]] = []
        model: EmbeddingModel | None = None
        for start in range(0, len(texts), _MAX_TEXTS):
            some = [text[:_MAX_CHARACTERS] for text in texts[start : start + _MAX_TEXTS]]
            try:
                answer = await self._stub.Embed(pb.EmbedRequest(texts=some, truncate=True))
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
            vectors += [embedding.values for embedding in answer.embeddings]
            dimension = len(answer.embeddings[0].values) if answer.embeddings else 0
            model = EmbeddingModel(name=answer.lineage.model, sha256=answer.lineage.model_sha256, dimension=dimension)
        if model is None or len(vectors) != len(texts):
            raise Internal("the embedder gave another number of vectors than it was given texts")
        return Embedded(vectors=vectors, model=model)
