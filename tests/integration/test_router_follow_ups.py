"""The sample's follow-up questions: what a search finds for them as they were asked, and self-contained.

Real documents, parsers, embeddings and Milvus; the numbers that the last run counted are in services/router/README.md.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.embedder.__main__ import build as build_embedder
from services.embedder.config import EmbedderConfig
from services.retriever.__main__ import build as build_retriever
from services.retriever.config import RetrieverConfig
from services.router.domain import Turn
from services.router.engine import rewrite
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1.retriever_service_pb2_grpc import RetrieverServiceStub
from tests.fakes.rpc_peer import KnownTokens

SAMPLE = Path(__file__).parents[2] / "examples" / "company"
TOP_K = 5
NOW = datetime(2026, 11, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not (SAMPLE / "manifest.jsonl").exists(), reason="the sample company is not here")


def rows(name: str) -> list[dict[str, object]]:
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


async def place(stub: RetrieverServiceStub, query: str, gold: list[str]) -> int:
    """Returns the place of the first passage of a gold document, one past the last when there is none."""
    request = pb.SearchRequest(query=query, top_k=TOP_K)
    request.as_of.FromDatetime(NOW)
    found = await stub.Search(request)
    hits = (number for number, passage in enumerate(found.passages, 1) if passage.document_id in gold)
    return next(hits, TOP_K + 1)


async def test_follow_ups_find_their_documents_once_they_are_self_contained(tmp_path: Path):
    known = KnownTokens(principals())
    asked = [row for split in ("train", "calibration", "test") for row in rows(f"questions/{split}.jsonl")]
    follow_ups = [row for row in asked if row["history"]]
    credential = tmp_path / "token"
    credential.write_text("service")
    async with AsyncExitStack() as running:
        local = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
        embedding = EmbedderConfig(**local, threads=1)
        telemetry = Telemetry("embedder")
        app = await build_embedder(embedding, telemetry)
        embedder = await running.enter_async_context(serving(app, embedding, telemetry, authenticator=known))
        retrieval = RetrieverConfig(
            **local, milvus_uri=str(tmp_path / "milvus.db"), embedder=embedder, credential_file=credential
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
        places: dict[str, list[int]] = {"as asked": [], "self-contained": []}
        for row in follow_ups:
            made = rewrite(row["question"], [Turn(turn["question"], turn["answer"]) for turn in row["history"]])
            for form, query in (("as asked", row["question"]), ("self-contained", made)):
                places[form].append(await place(stubs[row["tenant"]], query, row["gold_documents"]))
    for form, found in places.items():
        first, any_ = sum(at == 1 for at in found), sum(at <= TOP_K for at in found)
        print(f"{form}: of {len(found)} follow-ups {first} find their document first, {any_} among {TOP_K}")
    assert sum(at <= TOP_K for at in places["self-contained"]) >= 0.9 * len(follow_ups)
    for better in (1, TOP_K):
        as_asked, made_whole = (sum(at <= better for at in places[form]) for form in ("as asked", "self-contained"))
        assert made_whole > as_asked
