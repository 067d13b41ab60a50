"""A service that does what a test tells it: one RPC of each kind, over existing contracts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from tandem.errors import Unauthenticated
from tandem.rpc.server import App, Service
from tandem.security import Principal
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceServicer, add_EmbedderServiceServicer_to_server
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceServicer, add_GeneratorServiceServicer_to_server

EMBEDDER, GENERATOR = "tandem.v1.EmbedderService", "tandem.v1.GeneratorService"
ALICE = Principal("alice", "halden", frozenset({"claims"}), frozenset({"user"}))
ROUTER = Principal("router", "tandem", frozenset(), frozenset({"service"}))
TOKENS = {"alice-token": ALICE, "router-token": ROUTER}


class KnownTokens:
    """Resolves tokens from a dictionary."""

    def __init__(self, tokens: dict[str, Principal]) -> None:
        self._tokens = tokens

    def resolve(self, token: str) -> Principal:
        """Returns who the token stands for; raises Unauthenticated."""
        if token not in self._tokens:
            raise Unauthenticated("the token is not known here")
        return self._tokens[token]


async def _embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
    return embedder.EmbedResponse(embeddings=[embedder.Embedding(values=[len(text)]) for text in request.texts])


async def _stream_embed(
    requests: AsyncIterator[embedder.StreamEmbedRequest],
) -> AsyncIterator[embedder.StreamEmbedResponse]:
    yield embedder.StreamEmbedResponse(started=embedder.EmbedStarted(dimension=1))
    count = 0
    async for request in requests:
        count += 1
        yield embedder.StreamEmbedResponse(embedding=embedder.Embedding(values=[len(request.text)]))
    yield embedder.StreamEmbedResponse(finished=embedder.EmbedFinished(num_embeddings=count))


async def _stream_generate(
    request: generator.StreamGenerateRequest,
) -> AsyncIterator[generator.StreamGenerateResponse]:
    for word in request.request.text.split():
        yield generator.StreamGenerateResponse(delta=generator.GenerationDelta(text=word))


@dataclass
class Script:
    """Is what each RPC does; what is not told echoes."""

    embed: Callable[[embedder.EmbedRequest], Awaitable[embedder.EmbedResponse]] = _embed
    stream_embed: Callable[
        [AsyncIterator[embedder.StreamEmbedRequest]], AsyncIterator[embedder.StreamEmbedResponse]
    ] = _stream_embed
    stream_generate: Callable[[generator.StreamGenerateRequest], AsyncIterator[generator.StreamGenerateResponse]] = (
        _stream_generate
    )


class _Embedder(EmbedderServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Embed(self, request, context):
        return await self._script.embed(request)

    async def StreamEmbed(self, request_iterator, context):
        async for response in self._script.stream_embed(request_iterator):
            yield response


class _Generator(GeneratorServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def StreamGenerate(self, request, context):
        return self._script.stream_generate(request)


def app(script: Script, **life: Callable[[], Awaitable[None]]) -> App:
    """Returns an app of both services; life may hold start and stop."""
    return App(
        [
            Service(EMBEDDER, lambda server: add_EmbedderServiceServicer_to_server(_Embedder(script), server)),
            Service(GENERATOR, lambda server: add_GeneratorServiceServicer_to_server(_Generator(script), server)),
        ],
        **life,
    )
