"""The router's rules on the sample: what follow-ups find, and which answers are cited.

Real documents, parsers, embeddings and Milvus; `pytest -s` prints the counts that services/router/README.md gives.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.embedder.__main__ import build as build_embedder
from services.embedder.config import EmbedderConfig
from services.retriever.__main__ import build as build_retriever
from services.retriever.config import RetrieverConfig
from services.router.backend.retriever import passage_of
from services.router.domain import Passage, Turn
from services.router.domain.domains import Depth, Domain
from services.router.domain.grounding import Groundedness
from services.router.engine import rewrite
from services.router.grounding import SentenceGrounding
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1.retriever_service_pb2_grpc import RetrieverServiceStub
from tests.fakes.router_grounding import WordClassifier, WordEmbedder, WordScorer
from tests.fakes.rpc_peer import KnownTokens
from training.recipes import holds

SAMPLE = Path(__file__).parents[2] / "examples" / "company"
TOP_K = 5
LIMITS = (0.2, 0.3, 0.4, 0.45, 0.5, 0.6)
NOW = datetime(2026, 11, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not (SAMPLE / "manifest.jsonl").exists(), reason="the sample company is not here")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text().splitlines()]


def principals() -> dict[str, Principal]:
    known = json.loads((SAMPLE / "principals.json").read_text())
    people = {name: Principal.from_mapping(row) for name, row in known.items()}
    return people | {"service": Principal("retriever", "tandem", frozenset(), frozenset({"service", "user"}))}


async def frames(tenant: str) -> AsyncIterator[pb.IngestDocumentsRequest]:
    for row in rows("manifest.jsonl"):
        if row["tenant"] != tenant:
            continue
        path = SAMPLE / str(row["path"])
        header = pb.DocumentHeader(
            document_id=row["document_id"],
            source=path.name,
            media_type=row["media_type"],
            title=row["title"],
            groups=row["groups"],
        )
        for field in ("valid_from", "valid_until"):
            if row[field]:
                getattr(header, field).FromDatetime(datetime.fromisoformat(str(row[field])).replace(tzinfo=UTC))
        yield pb.IngestDocumentsRequest(header=header)
        yield pb.IngestDocumentsRequest(data=path.read_bytes())


@asynccontextmanager
async def library(folder: Path) -> AsyncIterator[dict[str, RetrieverServiceStub]]:
    """Serves embedder and retriever with the whole sample; yields a stub for each tenant's editor."""
    known = KnownTokens(principals())
    credential = folder / "token"
    credential.write_text("service")
    local = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    async with AsyncExitStack() as running:
        embedding, telemetry = EmbedderConfig(**local, threads=1), Telemetry("embedder")
        app = await build_embedder(embedding, telemetry)
        embedder = await running.enter_async_context(serving(app, embedding, telemetry, authenticator=known))
        retrieval = RetrieverConfig(
            **local, milvus_uri=str(folder / "milvus.db"), embedder_target=embedder, credential_file=credential
        )
        telemetry = Telemetry("retriever")
        app = await build_retriever(retrieval, telemetry)
        retriever = await running.enter_async_context(serving(app, retrieval, telemetry, authenticator=known))
        stubs = {}
        for tenant, editor in (("halden", "erin"), ("brightwater", "bea")):
            channel = await running.enter_async_context(connect(retriever, token=editor, default_timeout_s=300))
            await channel.channel_ready()
            stubs[tenant] = RetrieverServiceStub(channel)
            events = [event async for event in stubs[tenant].IngestDocuments(frames(tenant))]
            assert events[-1].finished.num_rejected == 0
        yield stubs


async def test_follow_ups_and_citations(tmp_path: Path):
    async with library(tmp_path) as stubs:
        await follow_ups_find_their_documents_once_they_are_self_contained(stubs)
        await true_answers_are_given_and_false_ones_withheld(stubs)


async def follow_ups_find_their_documents_once_they_are_self_contained(stubs: dict[str, RetrieverServiceStub]) -> None:
    asked = [row for split in ("train", "calibration", "test") for row in rows(f"questions/{split}.jsonl")]
    places: dict[str, list[int]] = {"as asked": [], "self-contained": []}
    for row in asked:
        if not row["history"]:
            continue
        stub, gold = stubs[row["tenant"]], row["gold_documents"]
        for form, query in (("as asked", row["question"]), ("self-contained", self_contained(row))):
            passages = await search(stub, query)
            hits = (number for number, passage in enumerate(passages, 1) if passage.document_id in gold)
            places[form].append(next(hits, TOP_K + 1))
    for form, found in places.items():
        first, any_ = sum(at == 1 for at in found), sum(at <= TOP_K for at in found)
        print(f"{form}: of {len(found)} follow-ups {first} find their document first, {any_} among {TOP_K}")
    assert sum(at <= TOP_K for at in places["self-contained"]) >= 0.9 * len(places["self-contained"])
    for better in (1, TOP_K):
        before, after = (sum(at <= better for at in places[form]) for form in ("as asked", "self-contained"))
        assert after > before


async def true_answers_are_given_and_false_ones_withheld(stubs: dict[str, RetrieverServiceStub]) -> None:
    facts = {row["fact_id"]: row for row in rows("facts.jsonl")}
    values: dict[str, list[float]] = {}
    cited = {"short": [0, 0, 0], "sentence": [0, 0, 0]}
    for row in rows("questions/test.jsonl"):
        if row["abstain"] or not row["answers"] or row["fact_id"] not in facts:
            continue
        question, gold = self_contained(row), row["gold_documents"]
        passages = [passage_of(passage) for passage in await search(stubs[row["tenant"]], question)]
        if not any(one.document_id in gold and holds(one.text, row["answers"]) for one in passages):
            continue
        others = [one for one in passages if one.document_id not in gold]
        elsewhere = others and not any(row["answers"][0].lower() in one.text.lower() for one in others)
        for form, answer in (("short", row["answers"][0]), ("sentence", facts[row["fact_id"]]["statement"])):
            found = await judged(question, answer, passages)
            values.setdefault(form, []).append(found.value or 0.0)
            supports = [sentence.support for sentence in found.sentences]
            cited[form][0] += 1
            cited[form][1] += any(supports)
            cited[form][2] += any(one.document_id in gold for one in supports if one)
            false = altered(answer)
            if false != answer:
                found = await judged(question, false, passages)
                values.setdefault(f"{form}, altered figure", []).append(found.value or 0.0)
            if elsewhere:
                found = await judged(question, answer, others)
                values.setdefault(f"{form}, other passages", []).append(found.value or 0.0)
    for form, (answers, some, right) in cited.items():
        print(f"{form}: of {answers} answers {some} are cited, {right} from the right document")
        assert some >= 0.9 * answers
        assert right >= 0.98 * some
    print("| limit | " + " | ".join(f"{kind} ({len(found)})" for kind, found in values.items()) + " |")
    for limit in LIMITS:
        shares = [sum((value < limit) == (kind in cited) for value in found) for kind, found in values.items()]
        told = (f"{100 * share / len(found):.1f} %" for share, found in zip(shares, values.values(), strict=True))
        print(f"| {limit} | " + " | ".join(told) + " |")
        if limit == Domain().min_groundedness:
            for (kind, found), share in zip(values.items(), shares, strict=True):
                assert share <= (0.1 if kind == "sentence" else 0.06) * len(found)


def altered(text: str) -> str:
    return re.sub(r"\d", lambda digit: str((int(digit[0]) + 3) % 9 + 1), text)


async def judged(question: str, answer: str, passages: list[Passage]) -> Groundedness:
    grounding = SentenceGrounding(embedder=WordEmbedder(), scorer=WordScorer(), classifier=WordClassifier())
    return await grounding.ground(question, answer, passages, depth=Depth.WORDS, timeout_s=5)


def self_contained(row: dict[str, Any]) -> str:
    return rewrite(row["question"], [Turn(turn["question"], turn["answer"]) for turn in row["history"]])


async def search(stub: RetrieverServiceStub, query: str) -> list[Any]:
    request = pb.SearchRequest(query=query, top_k=TOP_K)
    request.as_of.FromDatetime(NOW)
    return list((await stub.Search(request)).passages)
