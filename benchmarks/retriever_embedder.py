"""An embedder without a model, for measurements in which vectors need no meaning: it costs next to nothing."""

import hashlib
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tandem.v1 import common_pb2 as common
from tandem.v1 import embedder_service_pb2 as pb
from tandem.v1 import embedder_service_pb2_grpc as pb_grpc

Embed = Callable[[str], list[float]]
_WORD = re.compile(r"\w+")
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024


def bag_of_words(dimension: int) -> Embed:
    """Returns what turns a text into a bag of hashed words of unit length."""

    def embed(text: str) -> list[float]:
        vector = [0.0] * dimension
        for word in _WORD.findall(text.lower()) or [""]:
            vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % dimension] += 1.0
        norm = math.sqrt(sum(value * value for value in vector))
        return [value / norm for value in vector]

    return embed


class _Servicer(pb_grpc.EmbedderServiceServicer):
    def __init__(self, embed: Embed) -> None:
        self._embed = embed

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        """Embeds the texts."""
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=self._embed(text)) for text in request.texts],
            lineage=common.Lineage(model="synthetic", model_sha256="0" * 64),
        )

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Refuses, as an embedder without a reranker does."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "there is no reranker")
        return pb.RerankResponse()


@asynccontextmanager
async def embedder(embed: Embed) -> AsyncIterator[str]:
    """Serves it on a free port and yields the address."""
    server = grpc.aio.server(options=[("grpc.max_send_message_length", _MAX_MESSAGE_BYTES)])
    pb_grpc.add_EmbedderServiceServicer_to_server(_Servicer(embed), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
