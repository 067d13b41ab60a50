"""RouterService/Ground over real gRPC, its peers the fakes of grounding behind real servicers."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from services.router.backend import Breaker, PeerLikelihoodScorer, PeerPairClassifier, PeerTextEmbedder
from services.router.domain.domains import Depth
from services.router.grounding import SentenceGrounding
from services.router.metrics import RouterMetrics
from services.router.servicer.ground import Grounder
from tandem.errors import FailedPrecondition
from tandem.rpc.channel import connect
from tandem.rpc.server import App, Service
from tandem.v1 import common_pb2, embedder_service_pb2, generator_service_pb2
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceServicer, add_EmbedderServiceServicer_to_server
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceServicer, add_GeneratorServiceServicer_to_server
from tandem.v1.router_service_pb2_grpc import RouterServiceServicer, add_RouterServiceServicer_to_server
from tests.fakes.router_grounding import WordEmbedder, words
from tests.fakes.rpc_hosting import hosted


@dataclass
class Peers(EmbedderServiceServicer, GeneratorServiceServicer):
    """Is embedder and generator at once; without a classifier as the embedder is by default."""

    classifies: bool = False
    scored: list[Any] = field(default_factory=list)

    async def Embed(self, request: Any, context: Any) -> Any:
        """Returns the words of each text as a vector."""
        vectors = await WordEmbedder().embed_texts(list(request.texts), timeout_s=1)
        return embedder_service_pb2.EmbedResponse(
            embeddings=[embedder_service_pb2.Embedding(values=vector) for vector in vectors]
        )

    async def ClassifyPairs(self, request: Any, context: Any) -> Any:
        """Says that a premise entails what it holds all words of."""
        if not self.classifies:
            raise FailedPrecondition("there is no classifier")
        held = [set(words(pair.first)).issuperset(words(pair.second)) for pair in request.pairs]
        rows = [embedder_service_pb2.ClassifiedPair(probabilities=[1.0 - yes, float(yes)]) for yes in held]
        return embedder_service_pb2.ClassifyPairsResponse(
            labels=["contradiction", "entailment"],
            classified=rows,
            lineage=common_pb2.Lineage(model_sha256="c" * 64),
        )

    async def Score(self, request: Any, context: Any) -> Any:
        """Finds every word of a continuation likely."""
        self.scored.append(request)
        scores = [
            [
                generator_service_pb2.TokenLogprob(token=f"{word} ", logprob=math.log(0.5))
                for word in item.continuation.split()
            ]
            for item in request.items
        ]
        return generator_service_pb2.ScoreResponse(
            scores=[generator_service_pb2.ContinuationScore(tokens=tokens) for tokens in scores]
        )


class _Router(RouterServiceServicer):
    def __init__(self, grounder: Grounder) -> None:
        self._grounder = grounder

    async def Ground(self, request: Any, context: Any) -> Any:
        return await self._grounder.answer(request)


@asynccontextmanager
async def grounding_router(peers: Peers, *, depth: Depth = Depth.WORDS, **server: Any) -> AsyncIterator[str]:
    """Serves Ground beside its peers; yields the router's address."""
    behind = App(
        [
            Service("tandem.v1.EmbedderService", lambda server: add_EmbedderServiceServicer_to_server(peers, server)),
            Service("tandem.v1.GeneratorService", lambda server: add_GeneratorServiceServicer_to_server(peers, server)),
        ]
    )
    async with hosted(behind) as address, connect(address, token="alice-token") as channel:
        breaker = Breaker("peers", max_failures=5, open_s=1, metrics=RouterMetrics(CollectorRegistry()))
        grounding = SentenceGrounding(
            embedder=PeerTextEmbedder(channel, breaker),
            scorer=PeerLikelihoodScorer(channel, breaker),
            classifier=PeerPairClassifier(channel, breaker),
        )
        router = _Router(Grounder(grounding, default_depth=depth, default_timeout_s=5))
        front = App(
            [Service("tandem.v1.RouterService", lambda server: add_RouterServiceServicer_to_server(router, server))]
        )
        async with hosted(front, **server) as answering:
            yield answering
