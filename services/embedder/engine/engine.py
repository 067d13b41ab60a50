"""Embeds texts, ranks them by a query, and classifies pairs; each with a model of its own, on the same threads."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from opentelemetry.trace import Tracer

from services.embedder.domain import (
    Computed,
    EmbeddedText,
    Encoder,
    Limits,
    ModelInfo,
    Pair,
    PairScorer,
    Scores,
    Vector,
)
from services.embedder.engine.cache import QueryCache
from services.embedder.engine.pipeline import Pipeline
from services.embedder.engine.workers import Workers
from services.embedder.metrics import EmbedderMetrics
from tandem.errors import ConfigError, FailedPrecondition


class Engine:
    """Owns the models. Used from one event loop; ``start`` before the first call, ``stop`` after the last.

    Raises Unavailable before ``start`` has ended and after ``stop``, and otherwise what ``Pipeline.compute`` does.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        *,
        limits: Limits,
        metrics: EmbedderMetrics,
        tracer: Tracer,
        load_reranker: Callable[[], PairScorer] | None = None,
        load_classifier: Callable[[], PairScorer] | None = None,
    ) -> None:
        self._workers = workers = Workers(limits.workers)
        self._metrics = metrics
        self._encoder: Pipeline[str, Vector] = Pipeline(
            load, workers=workers, limits=limits, metrics=metrics, tracer=tracer
        )

        def pairs(load: Callable[[], PairScorer] | None) -> Pipeline[Pair, Scores] | None:
            return load and Pipeline(load, workers=workers, limits=limits, metrics=metrics, tracer=tracer)

        self._reranker, self._classifier = pairs(load_reranker), pairs(load_classifier)
        self._pipelines = [each for each in (self._encoder, self._reranker, self._classifier) if each]
        self._cache: QueryCache[Vector] = QueryCache(max_texts=limits.cache_texts)
        metrics.queue_texts.set_function(lambda: sum(each.num_waiting for each in self._pipelines))
        metrics.queue_tokens.set_function(lambda: sum(each.held_tokens for each in self._pipelines))

    @property
    def model(self) -> ModelInfo:
        """Describes the embedding model."""
        return self._encoder.info

    @property
    def reranker(self) -> ModelInfo | None:
        """Describes the reranker, if there is one."""
        return self._reranker.info if self._reranker else None

    @property
    def classifier(self) -> ModelInfo | None:
        """Describes the classifier of pairs, if there is one."""
        return self._classifier.info if self._classifier else None

    async def start(self) -> None:
        """Loads the models, one after the other. Raises ConfigError when one cannot be served."""
        for pipeline in self._pipelines:
            await pipeline.start()
        if self._reranker and self._reranker.info.dimension != 1:
            raise ConfigError(
                f"{self._reranker.info.name} has {self._reranker.info.dimension} outputs; a reranker has one"
            )

    async def stop(self) -> None:
        """Waits for the batches that run and refuses everything else. Safe to call more than once."""
        for pipeline in self._pipelines:
            await pipeline.stop()
        await self._workers.stop()

    async def embed(self, texts: Sequence[str], *, truncate: bool = True, scope: str = "") -> list[EmbeddedText]:
        """Returns the vectors of ``texts`` in their order; short ones that the same scope asked for lately are known.

        Raises InvalidInput for a text that the model cannot read whole unless ``truncate``.
        """
        _ = self.model  # known or not, there are no vectors without a model
        known = {place: found for place, text in enumerate(texts) if (found := self._cache.get(scope, text))}
        if not truncate:
            known = {place: found for place, found in known.items() if not found.truncated}
        self._metrics.cache_hits.inc(len(known))
        missing = [place for place in range(len(texts)) if place not in known]
        if missing:
            whole = [] if truncate else [f"texts[{place}]" for place in missing]
            computed = await self._encoder.compute([texts[place] for place in missing], whole=whole)
            for place, embedded in zip(missing, computed, strict=True):
                known[place] = embedded
                self._cache.put(scope, texts[place], embedded)
        return [known[place] for place in range(len(texts))]

    async def stream(self, texts: AsyncIterator[str]) -> AsyncGenerator[EmbeddedText, None]:
        """Yields the vector of each text in the order of arrival; see ``Pipeline.stream``."""
        async with aclosing(self._encoder.stream(texts)) as embedded:
            async for each in embedded:
                yield each

    async def rerank(self, query: str, texts: Sequence[str]) -> list[Computed[Scores]]:
        """Returns for each text one score of how well it answers the query. Raises FailedPrecondition without one."""
        if self._reranker is None:
            raise FailedPrecondition(
                "this embedder has no reranker; its operator may set EMBEDDER_RERANKER",
                reason="RERANKER_NOT_CONFIGURED",
            )
        return await self._reranker.compute([(query, text) for text in texts])

    async def classify(self, pairs: Sequence[Pair]) -> list[Computed[Scores]]:
        """Returns for each pair a score of each label. Raises FailedPrecondition where there is no classifier."""
        if self._classifier is None:
            raise FailedPrecondition(
                "this embedder has no classifier of pairs; its operator may set EMBEDDER_CLASSIFIER",
                reason="CLASSIFIER_NOT_CONFIGURED",
            )
        return await self._classifier.compute(pairs)
