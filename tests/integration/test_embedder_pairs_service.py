"""Rerank and ClassifyPairs from the client to tiny models and back, and a retriever that has its hits reranked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.embedder.__main__ import build
from services.embedder.backend import load_classifier, load_reranker
from services.embedder.config import EmbedderConfig
from services.embedder.domain import LATE_INTERACTION, PairScorer, Scores, probabilities
from tandem.client import AsyncEmbedderClient
from tandem.errors import FailedPrecondition, InvalidInput, Unauthenticated
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as retriever
from tests.fakes.cross_encoder import write_cross_encoder
from tests.fakes.retriever_hosting import house

QUERY, TEXTS = "w1 w2", ["w3 w4", "w1 w2", "w5 " * 40]
TOKEN = "service-token"


class OneToken:
    """Takes the one token for a service's."""

    def resolve(self, token: str) -> Principal:
        """Returns the service."""
        if token != TOKEN:
            raise Unauthenticated("unknown")
        return Principal("bench", "halden", roles=frozenset({"service"}))


@asynccontextmanager
async def embedder(**settings: str) -> AsyncIterator[str]:
    """Serves the bundled model with what the settings add; yields its address."""
    config = EmbedderConfig(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        threads=1,
        precision="fp32",
        **settings,  # type: ignore[arg-type]
    )
    telemetry = Telemetry(service="embedder")
    async with serving(await build(config, telemetry), config, telemetry, authenticator=OneToken()) as address:
        yield address
    telemetry.close()


def scored(model: PairScorer, pairs: Sequence[tuple[str, str]]) -> Sequence[Scores]:
    return model.run(model.tokenize(pairs))


async def test_scores_and_probabilities_are_those_of_the_models(tmp_path: Path) -> None:
    ranker = str(write_cross_encoder(tmp_path / "ranker", labels=1))
    nli = str(write_cross_encoder(tmp_path / "nli", labels=3))
    pairs = [(QUERY, text) for text in TEXTS]
    async with embedder(reranker=ranker, classifier=nli) as address:
        async with AsyncEmbedderClient(address, token=TOKEN) as client:
            ranked = await client.rerank(QUERY, TEXTS)
            told = await client.classify_pairs(pairs)
            about = await client.get_model()
            with pytest.raises(InvalidInput, match="pairs"):
                await client.classify_pairs([("w1", "")])
    settings = EmbedderConfig(reranker=ranker, classifier=nli, precision="fp32")
    scores = [row[0] for row in scored(load_reranker(settings, threads=1), pairs)]
    assert list(ranked.scores) == pytest.approx(scores, abs=1e-4)
    classifier = load_classifier(settings, threads=1)
    assert tuple(told.labels) == classifier.info.labels
    for pair, row in zip(told.classified, scored(classifier, pairs), strict=True):
        assert list(pair.probabilities) == pytest.approx(probabilities(row), abs=1e-4)
        assert sum(pair.probabilities) == pytest.approx(1)
    assert [pair.truncated for pair in told.classified] == [False, False, True]
    assert (ranked.lineage.model, told.lineage.model) == ("ranker", "nli")
    assert (about.reranker, about.classifier) == (ranked.lineage, told.lineage)
    assert ranked.usage.input_tokens == told.usage.input_tokens > 0
    assert [timing.stage for timing in ranked.timings] == ["queue", "tokenize", "infer"]


async def test_a_retriever_has_its_hits_reranked_by_late_interaction(tmp_path: Path) -> None:
    credential = tmp_path / "credential"
    credential.write_text(TOKEN)
    documents = {
        "cat": "The cat sleeps on the warm windowsill.",
        "water": "Damage by water must be reported within fourteen days.",
        "hail": "Hail is covered where the roof was sound.",
    }
    async with embedder(reranker=LATE_INTERACTION) as address:
        async with house(tmp_path, embedder_target=address, credential_file=credential, dimension=384) as running:
            for name, text in documents.items():
                await running.erin.put(name, text.encode())
            query = "How many days do I have to report water damage?"
            found = await running.alice.stub.Search(retriever.SearchRequest(query=query, rerank=True))
        async with AsyncEmbedderClient(address, token=TOKEN) as client:
            expected = await client.rerank(query, [passage.text for passage in found.passages])
    assert found.passages[0].document_id == "water"
    assert "rerank" in [timing.stage for timing in found.timings]
    assert [passage.rerank_score for passage in found.passages] == pytest.approx(list(expected.scores), abs=1e-3)
    assert list(expected.scores) == sorted(expected.scores, reverse=True)


async def test_without_the_models_the_status_says_what_to_do() -> None:
    async with embedder() as address, AsyncEmbedderClient(address, token=TOKEN) as client:
        with pytest.raises(FailedPrecondition, match="EMBEDDER_RERANKER"):
            await client.rerank(QUERY, TEXTS)
        with pytest.raises(FailedPrecondition, match="EMBEDDER_CLASSIFIER"):
            await client.classify_pairs([("a", "b")])
        assert not (await client.get_model()).HasField("reranker")
