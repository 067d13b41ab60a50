"""What grounding asks of the embedder and the generator."""

from collections.abc import Sequence

import grpc

from services.router.backend.breakers import Breaker
from services.router.backend.generator import chat_of
from services.router.domain.grounding import ClassifiedPairs, Continuation, TokenLikelihood
from tandem.v1 import embedder_service_pb2, embedder_service_pb2_grpc, generator_service_pb2, generator_service_pb2_grpc


class PeerTextEmbedder:
    """Implements services.router.domain.grounding.TextEmbedder by EmbedderService."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker) -> None:
        self._stub = embedder_service_pb2_grpc.EmbedderServiceStub(channel)
        self._breaker = breaker

    async def embed_texts(self, texts: Sequence[str], *, timeout_s: float) -> Sequence[Sequence[float]]:
        """Returns one vector for each text, in order; raises TandemError."""
        with self._breaker.calling(timeout_s):
            response = await self._stub.Embed(embedder_service_pb2.EmbedRequest(texts=texts), timeout=timeout_s)
        return [tuple(embedding.values) for embedding in response.embeddings]


class PeerLikelihoodScorer:
    """Implements services.router.domain.grounding.LikelihoodScorer by GeneratorService, on the base model alone."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker) -> None:
        self._stub = generator_service_pb2_grpc.GeneratorServiceStub(channel)
        self._breaker = breaker

    async def score(
        self, continuations: Sequence[Continuation], *, timeout_s: float
    ) -> Sequence[Sequence[TokenLikelihood]]:
        """Returns the tokens of each continuation, in order; raises TandemError. A person waits for it."""
        request = generator_service_pb2.ScoreRequest(
            items=[
                generator_service_pb2.ScoreItem(chat=chat_of(one.messages), continuation=one.text)
                for one in continuations
            ],
            include_token_logprobs=True,
            priority=generator_service_pb2.PRIORITY_INTERACTIVE,
        )
        with self._breaker.calling(timeout_s):
            response = await self._stub.Score(request, timeout=timeout_s)
        return [[TokenLikelihood(token.token, token.logprob) for token in score.tokens] for score in response.scores]


class PeerPairClassifier:
    """Implements services.router.domain.grounding.PairClassifier by EmbedderService."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker) -> None:
        self._stub = embedder_service_pb2_grpc.EmbedderServiceStub(channel)
        self._breaker = breaker

    async def classify_pairs(self, pairs: Sequence[tuple[str, str]], *, timeout_s: float) -> ClassifiedPairs:
        """Returns the probabilities of each (premise, hypothesis), in order; raises TandemError."""
        request = embedder_service_pb2.ClassifyPairsRequest(
            pairs=[embedder_service_pb2.TextPair(first=premise, second=said) for premise, said in pairs]
        )
        with self._breaker.calling(timeout_s):
            response = await self._stub.ClassifyPairs(request, timeout=timeout_s)
        return ClassifiedPairs(
            labels=tuple(response.labels),
            probabilities=[tuple(one.probabilities) for one in response.classified],
            model_sha256=response.lineage.model_sha256,
        )
