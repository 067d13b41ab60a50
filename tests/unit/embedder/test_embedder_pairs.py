"""Pairs: ranked by a query, classified, refused by name where no model was given."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.embedder.config import EmbedderConfig
from services.embedder.domain import Limits, PairScorer, probabilities
from services.embedder.engine import Engine
from services.embedder.metrics import EmbedderMetrics
from services.embedder.servicer import MAX_CHARACTERS, MAX_PAIRS, MAX_QUERY_CHARACTERS, EmbedderServicer
from tandem.errors import ConfigError, FailedPrecondition, InvalidInput, PermissionDenied
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import embedder_service_pb2 as pb
from tests.fakes.embedder import FakeEncoder, FakeScorer

CONTEXT: Any = None
LIMITS = Limits(max_batch_tokens=64, max_batch_texts=8, max_queue_tokens=9_999, max_stream_texts=4, workers=2)
LABELS = ("entailment", "neutral", "contradiction")


@asynccontextmanager
async def serving(
    reranker: Callable[[], PairScorer] | None = FakeScorer,
    classifier: Callable[[], PairScorer] | None = lambda: FakeScorer(labels=LABELS),
    role: str = "service",
) -> AsyncIterator[EmbedderServicer]:
    metrics = EmbedderMetrics(CollectorRegistry())
    engine = Engine(
        FakeEncoder,
        limits=LIMITS,
        metrics=metrics,
        tracer=NoOpTracer(),
        load_reranker=reranker,
        load_classifier=classifier,
    )
    try:
        await engine.start()
        with call.bind(principal=Principal(subject="lena", tenant="halden", roles=frozenset({role}))):
            yield EmbedderServicer(engine)
    finally:
        await engine.stop()


def pairs(*texts: tuple[str, str]) -> pb.ClassifyPairsRequest:
    return pb.ClassifyPairsRequest(pairs=[pb.TextPair(first=first, second=second) for first, second in texts])


async def test_rerank_scores_every_text_in_order() -> None:
    async with serving() as servicer:
        response = await servicer.Rerank(pb.RerankRequest(query="a b c", texts=["x", "c a", "b"] * 9), CONTEXT)
    assert list(response.scores) == [0, 2, 1] * 9
    assert response.lineage.model == "scorer"
    assert response.usage.input_tokens == 9 * (4 + 5 + 4)
    assert [timing.stage for timing in response.timings] == ["queue", "tokenize", "infer"]


async def test_classify_gives_the_probability_of_each_label() -> None:
    async with serving() as servicer:
        response = await servicer.ClassifyPairs(pairs(("a b", "b"), ("w " * 20, "z")), CONTEXT)
    assert tuple(response.labels) == LABELS
    first, cut = response.classified
    assert first.probabilities == pytest.approx(probabilities([1, 2, 1]))
    assert (first.truncated, cut.truncated) == (False, True)
    assert response.lineage.model_sha256 == "1" * 64


async def test_without_models_the_status_says_what_is_missing() -> None:
    async with serving(reranker=None, classifier=None) as servicer:
        with pytest.raises(FailedPrecondition) as rerank:
            await servicer.Rerank(pb.RerankRequest(query="a", texts=["b"]), CONTEXT)
        with pytest.raises(FailedPrecondition) as classify:
            await servicer.ClassifyPairs(pairs(("a", "b")), CONTEXT)
        described = await servicer.GetEmbeddingModel(pb.GetEmbeddingModelRequest(), CONTEXT)
    assert (rerank.value.reason, classify.value.reason) == ("RERANKER_NOT_CONFIGURED", "CLASSIFIER_NOT_CONFIGURED")
    assert not described.HasField("reranker")
    assert not described.HasField("classifier")


async def test_describes_all_models() -> None:
    async with serving() as servicer:
        response = await servicer.GetEmbeddingModel(pb.GetEmbeddingModelRequest(), CONTEXT)
    assert (response.reranker.model, response.classifier.model, response.precision) == ("scorer", "scorer", "fp32")


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.RerankRequest(texts=["a"]), ["query"]),
        (pb.RerankRequest(query="q" * (MAX_QUERY_CHARACTERS + 1), texts=["a"]), ["query"]),
        (pb.RerankRequest(query="q"), ["texts"]),
        (pb.RerankRequest(query="q", texts=["a"] * (MAX_PAIRS + 1)), ["texts"]),
        (pb.RerankRequest(query="q", texts=["a", "", "x" * (MAX_CHARACTERS + 1)]), ["texts[1]", "texts[2]"]),
        (pairs(), ["pairs"]),
        (pairs(*[("a", "b")] * (MAX_PAIRS + 1)), ["pairs"]),
        (pairs(("a", "b"), ("", "x" * (MAX_CHARACTERS + 1))), ["pairs[1].first", "pairs[1].second"]),
    ],
)
async def test_names_the_faulty_fields(request_: Any, fields: list[str]) -> None:
    async with serving() as servicer:
        method = servicer.Rerank if isinstance(request_, pb.RerankRequest) else servicer.ClassifyPairs
        with pytest.raises(InvalidInput) as refusal:
            await method(request_, CONTEXT)
    assert [violation.field for violation in refusal.value.violations] == fields


async def test_only_those_who_may_are_served() -> None:
    async with serving(role="auditor") as servicer:
        with pytest.raises(PermissionDenied):
            await servicer.Rerank(pb.RerankRequest(query="a", texts=["b"]), CONTEXT)
        with pytest.raises(PermissionDenied):
            await servicer.ClassifyPairs(pairs(("a", "b")), CONTEXT)


async def test_a_reranker_with_several_outputs_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="a reranker has one"):
        async with serving(reranker=lambda: FakeScorer(labels=LABELS)):
            pass


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6))
def test_probabilities_are_probabilities(scores: list[float]) -> None:
    found = probabilities(scores)
    assert all(0 <= each <= 1 for each in found)
    if len(scores) > 1:
        assert sum(found) == pytest.approx(1)


def test_one_score_becomes_the_logistic_function() -> None:
    assert probabilities([0.0]) == [0.5]
    assert probabilities([2.0])[0] + probabilities([-2.0])[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "lanes"),
    [
        ({}, (8, 1)),
        ({"threads": 2}, (1, 2)),
        ({"workers": 2}, (2, 4)),
        ({"workers": 3, "threads": 1}, (3, 1)),
        ({"workers": 16}, (16, 1)),
        ({"device": "cuda"}, (1, 8)),
    ],
)
def test_the_cores_are_shared_among_the_workers(settings: Any, lanes: tuple[int, int]) -> None:
    assert EmbedderConfig(**settings).lanes(cores=8) == lanes
