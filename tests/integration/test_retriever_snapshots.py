"""Snapshots as operators and callers see them: real Milvus Lite, real gRPC, a real process that is killed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner

from services.retriever.__main__ import build
from services.retriever.config import RetrieverConfig
from tandem.cli import app as root
from tandem.errors import Unauthenticated
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc
from tests.fakes.retriever import DIMENSION, MODEL, FakeEmbedderServicer, embed, embedder_peer
from tests.fakes.retriever_process import House, kill_tree

Stub = pb_grpc.RetrieverServiceStub
PLATFORM = Principal("pia", "halden", frozenset({"leads"}), frozenset({"user", "editor", "platform"}))
ERIN = Principal("erin", "halden", frozenset(), frozenset({"user", "editor", "operator"}))
S = pb.Snapshot


class Names:
    """Takes a principal's name for its token."""

    def resolve(self, token: str) -> Principal:
        if token not in ("pia", "erin"):
            raise Unauthenticated("unknown")
        return PLATFORM if token == "pia" else ERIN


@asynccontextmanager
async def house(folder: Path, embedder: str, **fields: object) -> AsyncIterator[tuple[Stub, Stub]]:
    """Runs a retriever on a folder; yields the operator's and an editor's stub."""
    settings = RetrieverConfig(
        **{
            "listen": "127.0.0.1:0",
            "metrics_listen": "127.0.0.1:0",
            "milvus_uri": str(folder / "milvus.db"),
            "embedder_target": embedder,
            "dimension": DIMENSION,
            "drain_seconds": 1.0,
            **fields,
        }
    )
    telemetry = Telemetry("retriever")
    app = await build(settings, telemetry)
    async with serving(app, settings, telemetry, authenticator=Names()) as address:
        async with connect(address, token="pia") as pia, connect(address, token="erin") as erin:
            operator = Stub(pia)
            operator.address = address
            yield operator, Stub(erin)


async def put(stub: Stub, texts: dict[str, str], **fields: object) -> list[pb.IngestResult]:
    async def frames() -> AsyncIterator[pb.IngestDocumentsRequest]:
        for name, text in texts.items():
            yield pb.IngestDocumentsRequest(header=pb.DocumentHeader(document_id=name, source=f"{name}.md", **fields))
            yield pb.IngestDocumentsRequest(data=text.encode())

    events = [event async for event in stub.IngestDocuments(frames())]
    return [event.result for event in events if event.HasField("result")]


async def whole(stub: Stub, snapshot_id: str) -> S:
    """Waits until a snapshot is built."""
    async with asyncio.timeout(60):
        while True:
            got = (await stub.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=snapshot_id))).snapshot
            if got.state != S.STATE_BUILDING:
                return got
            await asyncio.sleep(0.05)


async def found(stub: Stub, query: str, snapshot: str = "", **fields: object) -> dict[str, str]:
    request = pb.SearchRequest(query=query, snapshot=snapshot, top_k=100, keep_duplicates=True, **fields)
    response = await stub.Search(request)
    return {passage.chunk_id: passage.text for passage in response.passages}


async def states(stub: Stub) -> dict[str, int]:
    listed = await stub.ListSnapshots(pb.ListSnapshotsRequest())
    return {one.snapshot_id: one.state for one in listed.snapshots}


def refused(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return caught.value.code()


PARAGRAPHS = "\n\n".join(
    f"Clause {number} of the manual speaks of damage by water and of glass." for number in range(9)
)
LONG = f"# Manual\n\n{PARAGRAPHS}\n"


async def test_a_snapshot_is_built_compared_searched_promoted_and_rolled_back(tmp_path: Path) -> None:
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        await put(erin, {"long": LONG, "short": "A word about glass."})
        await put(erin, {"secret": LONG}, groups=["nobody"])
        made = await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="fine", chunk_characters=150))
        assert (made.snapshot.state, made.snapshot.chunk_characters) == (S.STATE_BUILDING, 150)
        ready = await whole(pia, "fine")
        assert (ready.state, ready.num_documents, ready.num_documents_total) == (S.STATE_READY, 3, 3)
        assert ready.embedding.model == "bag-of-words"
        diff = await pia.DiffSnapshot(pb.DiffSnapshotRequest(snapshot_id="fine"))
        assert [(d.document_id, d.live_chunks, d.snapshot_chunks) for d in diff.differences] == [("long", 1, 5)]
        live, fine = await found(pia, "water damage"), await found(pia, "water damage", "fine")
        assert (len(live), len(fine)) == (2, 6)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found(erin, "water damage", "fine")
        assert refused(caught) is grpc.StatusCode.PERMISSION_DENIED
        promoted = await pia.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="fine"))
        assert promoted.snapshot.state == S.STATE_LIVE
        assert promoted.snapshot.HasField("promote_time")
        assert await found(erin, "water damage") == fine
        assert (await erin.GetDocument(pb.GetDocumentRequest(document_id="long"))).document.num_chunks == 5
        assert await states(pia) == {"fine": S.STATE_LIVE, "initial": S.STATE_RETIRED}
        await put(erin, {"short": "A word about hail."})
        back = await pia.RollBackSnapshot(pb.RollBackSnapshotRequest())
        assert back.snapshot.snapshot_id == "initial"
        assert "A word about hail." in (await found(erin, "hail")).values()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pia.RollBackSnapshot(pb.RollBackSnapshotRequest())
        assert refused(caught) is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pia.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id="initial"))
        assert refused(caught) is grpc.StatusCode.FAILED_PRECONDITION
        await pia.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id="fine"))
        assert await states(pia) == {"initial": S.STATE_LIVE}
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        assert await states(pia) == {"initial": S.STATE_LIVE}
        assert len(await found(erin, "glass hail")) == 2
        # The name is free again, and nothing of the old one's is taken for the new one's.
        await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="fine", chunk_characters=150))
        assert (await whole(pia, "fine")).state == S.STATE_READY
        assert len(await found(pia, "water damage", "fine")) == 6


async def test_what_an_operator_may_not_do_is_said(tmp_path: Path) -> None:
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        codes = grpc.StatusCode
        create, named = pb.CreateSnapshotRequest, {"snapshot_id": "next"}
        for call, code in (
            (pia.CreateSnapshot(create(snapshot_id="No")), codes.INVALID_ARGUMENT),
            (pia.CreateSnapshot(create(snapshot_id="a", chunk_characters=99)), codes.INVALID_ARGUMENT),
            (pia.CreateSnapshot(create(snapshot_id="a", analyzer="klingon")), codes.INVALID_ARGUMENT),
            (pia.CreateSnapshot(create(snapshot_id="initial")), codes.ALREADY_EXISTS),
            (pia.GetSnapshot(pb.GetSnapshotRequest(**named)), codes.NOT_FOUND),
            (pia.DiffSnapshot(pb.DiffSnapshotRequest(**named)), codes.NOT_FOUND),
            (pia.PromoteSnapshot(pb.PromoteSnapshotRequest(**named)), codes.NOT_FOUND),
            (pia.DeleteSnapshot(pb.DeleteSnapshotRequest(**named)), codes.NOT_FOUND),
            (pia.RollBackSnapshot(pb.RollBackSnapshotRequest()), codes.FAILED_PRECONDITION),
            (pia.ListSnapshots(pb.ListSnapshotsRequest(page_token="x")), codes.INVALID_ARGUMENT),
            (pia.Search(pb.SearchRequest(query="a", snapshot="next")), codes.NOT_FOUND),
            (erin.CreateSnapshot(create(**named)), codes.PERMISSION_DENIED),
            (erin.ListSnapshots(pb.ListSnapshotsRequest()), codes.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert refused(caught) is code, caught.value.details()


async def test_a_promotion_under_load_fails_no_search_and_mixes_none(tmp_path: Path) -> None:
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        await put(erin, {f"d{number}": LONG for number in range(4)})
        await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="fine", chunk_characters=150))
        await whole(pia, "fine")
        expected = {
            "initial": await found(erin, "water damage"),
            "fine": await found(pia, "water damage", "fine"),
        }
        seen: set[str] = set()
        stopped = asyncio.Event()

        async def search() -> None:
            while not stopped.is_set():
                request = pb.SearchRequest(query="water damage", top_k=100, keep_duplicates=True)
                response = await erin.Search(request)
                assert {passage.chunk_id: passage.text for passage in response.passages} == expected[response.snapshot]
                seen.add(response.snapshot)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(search())
            for turn in range(5):
                await pia.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="fine"))
                assert (await erin.Search(pb.SearchRequest(query="water damage"))).snapshot == "fine"
                await pia.RollBackSnapshot(pb.RollBackSnapshotRequest())
                assert (await erin.Search(pb.SearchRequest(query="water damage"))).snapshot == "initial", turn
            stopped.set()
        assert seen == {"initial", "fine"}


async def test_the_collection_goes_over_to_another_model(tmp_path: Path) -> None:
    old, new = FakeEmbedderServicer(), FakeEmbedderServicer(dimension=48, name="bag-of-more-words")
    async with embedder_peer(old) as first, embedder_peer(new) as second:
        async with house(tmp_path, first, embedder_next_target=second) as (pia, erin):
            await put(erin, {"a": "A word about glass."})
            await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="next"))
            ready = await whole(pia, "next")
            assert (ready.state, ready.embedding.model) == (S.STATE_READY, "bag-of-more-words")
            await put(erin, {"b": "A word about hail."})
            for snapshot in ("initial", "next"):
                assert len(await found(pia, "glass or hail", snapshot, mode=pb.SEARCH_MODE_DENSE)) == 2
            await pia.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="next"))
            assert len(await found(erin, "glass or hail", mode=pb.SEARCH_MODE_DENSE)) == 2
        # The old embedder is gone: the snapshot of its model is given up by the next write, and nothing else suffers.
        async with house(tmp_path, second) as (pia, erin):
            assert len(await found(erin, "glass or hail", mode=pb.SEARCH_MODE_DENSE)) == 2
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pia.RollBackSnapshot(pb.RollBackSnapshotRequest())
            assert refused(caught) is grpc.StatusCode.FAILED_PRECONDITION
            await put(erin, {"c": "A word about fire."})
            assert len(await found(erin, "fire glass", mode=pb.SEARCH_MODE_DENSE)) == 3
            listed = (await pia.ListSnapshots(pb.ListSnapshotsRequest())).snapshots
            assert {one.snapshot_id: one.state for one in listed} == {"next": S.STATE_LIVE, "initial": S.STATE_FAILED}
            assert "bag-of-words" in listed[1].error


class Backwards(FakeEmbedderServicer):
    """Has vectors of the same length that mean something else."""

    async def Embed(self, request: Any, context: Any) -> Any:
        answer = await super().Embed(request, context)
        for one in answer.embeddings:
            one.values[:] = list(reversed(one.values))
        return answer


async def test_after_a_promotion_a_vector_of_the_model_before_is_not_compared(tmp_path: Path) -> None:
    new = Backwards(name="backwards", sha256="0" * 64)
    async with embedder_peer() as first, embedder_peer(new) as second:
        async with house(tmp_path, first, embedder_next_target=second) as (pia, erin):
            await put(erin, {"a": "A word about glass.", "b": "A word about hail."})
            await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="next"))
            assert (await whole(pia, "next")).embedding.model_sha256 == new.sha256
            told = {"query_model_sha256": MODEL.sha256, "mode": pb.SEARCH_MODE_DENSE}
            request = pb.SearchRequest(query="hail", query_vector=embed("A word about hail."), **told)
            before = await erin.Search(request)
            await pia.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="next"))
            after = await erin.Search(request)
    assert [one.passages[0].document_id for one in (before, after)] == ["b", "b"]
    assert [one.snapshot for one in (before, after)] == ["initial", "next"]
    assert [any(timing.stage == "embed" for timing in one.timings) for one in (before, after)] == [False, True]


async def test_an_operator_types_and_is_told(tmp_path: Path) -> None:
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        await put(erin, {"long": LONG})

        async def typed(*words: str) -> str:
            environment = {"TANDEM_RETRIEVER": pia.address, "TANDEM_TOKEN": "pia"}
            result = await asyncio.to_thread(CliRunner().invoke, root.app, ["snapshots", *words], env=environment)
            assert result.exception is None, result.output
            return str(result.output)

        assert "initial: live, 1 of 1 documents, chunks of 900, english, bag-of-words" in await typed()
        assert "fine is being built" in await typed("create", "fine", "--chunk-characters", "150")
        await whole(pia, "fine")
        assert await typed("diff", "fine", "--json")
        assert (await typed("diff", "fine")).split()[-3:] == ["long", "1", "5"]
        assert "fine is live" in await typed("promote", "fine")
        assert "initial is live again" in await typed("roll-back")
        assert "fine is gone" in await typed("delete", "fine")
        (row,) = json.loads(await typed("list", "--json"))
        assert (row["snapshot_id"], row["state"]) == ("initial", "STATE_LIVE")


async def test_answers_follow_the_edition_of_the_promoted_snapshot(tmp_path: Path) -> None:
    async with embedder_peer() as embedder, house(tmp_path, embedder) as (pia, erin):
        turn = Timestamp(seconds=1_735_689_600)  # 2025
        await put(erin, {"old": "The chair is Ada."}, valid_until=turn)
        await put(erin, {"new": "The chair is Bo."}, valid_from=turn)
        last_year = Timestamp(seconds=turn.seconds - 86_400)
        made = await pia.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="last-year", as_of=last_year))
        assert made.snapshot.as_of == last_year
        await whole(pia, "last-year")
        assert list((await found(erin, "chair")).values()) == ["The chair is Bo."]
        await pia.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="last-year"))
        assert list((await found(erin, "chair")).values()) == ["The chair is Ada."]
        assert list((await found(erin, "chair", as_of=turn)).values()) == ["The chair is Bo."]
        await pia.RollBackSnapshot(pb.RollBackSnapshotRequest())
        assert list((await found(erin, "chair")).values()) == ["The chair is Bo."]


class Stalling(FakeEmbedderServicer):
    """Serves so many batches of more than one text, and keeps the next waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = 1_000
        self.stalled, self.open = asyncio.Event(), asyncio.Event()
        self.num_texts = 0

    async def Embed(self, request: Any, context: Any) -> Any:
        many = len(request.texts) > 1
        self.allowed -= many
        self.num_texts += len(request.texts)
        if many and self.allowed < 0:
            self.stalled.set()
            await self.open.wait()
        return await super().Embed(request, context)


@pytest.mark.parametrize("engine_too", [True, False])
async def test_a_build_goes_on_after_kill_9_and_is_never_served_half(tmp_path: Path, engine_too: bool) -> None:
    peer = Stalling()
    async with embedder_peer(peer) as embedder:
        of = House(tmp_path, embedder)
        async with of.up() as (process, stub):
            await put(stub, {f"d{number:03d}": f"Statement {number} holds." for number in range(250)})
            peer.allowed = 4  # batches of 64: the first page of 200 documents
            await stub.CreateSnapshot(pb.CreateSnapshotRequest(snapshot_id="next", analyzer="standard"))
            await peer.stalled.wait()
            for name in ("d000", "d249"):
                await put(stub, {name: "Statement renewed holds."})
            await stub.DeleteDocument(pb.DeleteDocumentRequest(document_id="d001"))
            kill_tree(process, engine_too=engine_too)
        peer.open.set()
        peer.allowed, peer.num_texts = 0, 0
        peer.open.clear()
        peer.stalled.clear()
        async with of.up() as (_, stub):
            await peer.stalled.wait()
            for call in (
                stub.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="next")),
                stub.Search(pb.SearchRequest(query="statement", snapshot="next")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert refused(caught) is grpc.StatusCode.FAILED_PRECONDITION
            renewed = await found(stub, "renewed", mode=pb.SEARCH_MODE_SPARSE)
            assert len(renewed) == 2
            peer.open.set()
            ready = await whole(stub, "next")
            assert (ready.state, ready.num_documents) == (S.STATE_READY, 249)
            assert peer.num_texts < 60  # what was done before counts
            await stub.PromoteSnapshot(pb.PromoteSnapshotRequest(snapshot_id="next"))
            assert await found(stub, "renewed", mode=pb.SEARCH_MODE_SPARSE) == renewed
            assert await found(stub, "1", mode=pb.SEARCH_MODE_SPARSE) == {}  # deleted during the build
            diff = await stub.DiffSnapshot(pb.DiffSnapshotRequest(snapshot_id="initial", page_size=1000))
            assert list(diff.differences) == []
