"""Jobs and live sources as callers and operators meet them: real Milvus Lite, real gRPC, a real process to kill."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.retriever.__main__ import build
from services.retriever.config import RetrieverConfig
from tandem.errors import ConfigError, Unauthenticated
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.rpc.status import DETAILS_KEY
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc
from tests.fakes.feeds import Site
from tests.fakes.retriever import DIMENSION, embedder_peer
from tests.fakes.retriever_process import House, kill_tree

EDITOR = frozenset({"user", "editor"})
PRINCIPALS = {
    "erin": Principal("erin", "halden", frozenset(), EDITOR),
    "bea": Principal("bea", "brightwater", frozenset(), EDITOR),
    "alice": Principal("alice", "halden", frozenset(), frozenset({"user"})),
}
Stub = pb_grpc.RetrieverServiceStub


class Names:
    """Takes a principal's name for its token."""

    def resolve(self, token: str) -> Principal:
        if token not in PRINCIPALS:
            raise Unauthenticated("unknown")
        return PRINCIPALS[token]


@asynccontextmanager
async def retriever(folder: Path, **fields: object) -> AsyncIterator[SimpleNamespace]:
    async with embedder_peer() as embedder:
        settings = RetrieverConfig(
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            milvus_uri=str(folder / "milvus.db"),
            embedder_target=embedder,
            dimension=DIMENSION,
            drain_seconds=1.0,
            **fields,
        )
        telemetry = Telemetry("retriever")
        app = await build(settings, telemetry)
        async with serving(app, settings, telemetry, authenticator=Names()) as address:
            channels = {name: connect(address, token=name) for name in PRINCIPALS}
            stubs = {name: Stub(channel) for name, channel in channels.items()}
            yield SimpleNamespace(**stubs, value=telemetry.registry.get_sample_value)
            for channel in channels.values():
                await channel.close()


async def create(stub: Stub, *documents: tuple[str, bytes]) -> pb.IngestJob:
    async def frames() -> AsyncIterator[pb.CreateIngestJobRequest]:
        for document_id, data in documents:
            header = pb.DocumentHeader(document_id=document_id, source=f"{document_id}.txt")
            yield pb.CreateIngestJobRequest(header=header)
            yield pb.CreateIngestJobRequest(data=data)

    return (await stub.CreateIngestJob(frames())).job


async def until(seen: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await seen():  # noqa: ASYNC110 -- what is waited for is in the service
            await asyncio.sleep(0.02)


async def get(stub: Stub, job: pb.IngestJob) -> pb.IngestJob:
    return (await stub.GetIngestJob(pb.GetIngestJobRequest(job_id=job.job_id))).job


async def ended(stub: Stub, job: pb.IngestJob) -> pb.IngestJob:
    async def has() -> bool:
        return (await get(stub, job)).state != pb.IngestJob.STATE_RUNNING

    await until(has)
    return await get(stub, job)


async def results(stub: Stub, job: pb.IngestJob, **wish: object) -> list[pb.IngestResult]:
    found: list[pb.IngestResult] = []
    token = ""
    while True:
        request = pb.ListIngestJobResultsRequest(job_id=job.job_id, page_token=token, **wish)
        page = await stub.ListIngestJobResults(request)
        found += page.results
        token = page.next_page_token
        if not token:
            return found


async def texts(stub: Stub, query: str) -> list[str]:
    request = pb.SearchRequest(query=query, top_k=100, mode=pb.SEARCH_MODE_SPARSE)
    return [passage.text for passage in (await stub.Search(request)).passages]


def spooled(folder: Path) -> list[str]:
    return [path.name for path in (folder / "milvus.db.spool").rglob("0*") if path.is_file()]


async def test_a_job_survives_kill_9_in_its_middle(tmp_path: Path) -> None:
    documents = [(f"d{n:03}", f"Statement number {n}, code q{n}q. It holds.".encode()) for n in range(150)]
    documents[70] = ("d070", b"   ")
    async with embedder_peer() as embedder:
        house = House(tmp_path, embedder)
        async with house.up() as (process, stub):
            job = await create(stub, *documents)
            assert (job.num_documents, job.subject) == (150, "erin")

            async def under_way() -> bool:
                return (await get(stub, job)).num_indexed >= 10

            await until(under_way)
            kill_tree(process, engine_too=True)
        assert 0 < len(spooled(tmp_path)) <= 140
        async with house.up() as (_, stub):
            job = await ended(stub, job)
            assert job.state == pb.IngestJob.STATE_FINISHED
            assert (job.num_indexed + job.num_unchanged, job.num_rejected) == (149, 1)
            found = await results(stub, job, page_size=40)
            assert [row.document_id for row in found] == [document_id for document_id, _ in documents]
            assert [row.document_id for row in await results(stub, job, rejected_only=True)] == ["d070"]
            listed = (await stub.ListDocuments(pb.ListDocumentsRequest(page_size=1000))).documents
            assert [row.num_chunks for row in listed] == [1] * 149
            for number in (0, 69, 149):
                passages = await texts(stub, f"q{number}q")
                assert len([text for text in passages if f"code q{number}q" in text]) == 1
            assert spooled(tmp_path) == []


async def test_jobs_are_the_tenants_own_and_need_the_role(tmp_path: Path) -> None:
    async with retriever(tmp_path) as house:
        job = await create(house.erin, ("a", b"Some words."))
        calls = (
            lambda stub: stub.GetIngestJob(pb.GetIngestJobRequest(job_id=job.job_id)),
            lambda stub: stub.CancelIngestJob(pb.CancelIngestJobRequest(job_id=job.job_id)),
            lambda stub: stub.ListIngestJobResults(pb.ListIngestJobResultsRequest(job_id=job.job_id)),
        )
        for stub, code in (
            (house.bea, grpc.StatusCode.NOT_FOUND),
            (house.alice, grpc.StatusCode.PERMISSION_DENIED),
        ):
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(stub)
                assert caught.value.code() is code
        assert not (await house.bea.ListIngestJobs(pb.ListIngestJobsRequest())).jobs
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(house.alice, ("a", b"words"))
        job = await ended(house.erin, job)
        assert (job.num_indexed, job.HasField("end_time")) == (1, True)
        again = await ended(house.erin, await create(house.erin, ("a", b"Some words.")))
        assert (again.num_indexed, again.num_unchanged) == (0, 1)
        page = await house.erin.ListIngestJobs(pb.ListIngestJobsRequest(page_size=1))
        assert [row.job_id for row in page.jobs] == [again.job_id]
        page = await house.erin.ListIngestJobs(pb.ListIngestJobsRequest(page_token=page.next_page_token))
        assert ([row.job_id for row in page.jobs], page.next_page_token) == ([job.job_id], "")
        for request in (pb.ListIngestJobsRequest(page_token="odd"), pb.ListIngestJobsRequest(page_size=-1)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await house.erin.ListIngestJobs(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        gone = await house.erin.CancelIngestJob(pb.CancelIngestJobRequest(job_id=job.job_id))
        assert gone.job.state == pb.IngestJob.STATE_FINISHED
        assert house.value("tandem_retriever_freshness_seconds_count", {"origin": "job"}) == 1


async def test_a_disk_that_is_full_of_jobs_refuses_with_a_delay(tmp_path: Path) -> None:
    async with retriever(tmp_path, max_job_mib=32) as house:
        piece = b"x" * (1024 * 1024)

        async def frames() -> AsyncIterator[pb.CreateIngestJobRequest]:
            for number in range(3):
                yield pb.CreateIngestJobRequest(header=pb.DocumentHeader(document_id=f"d{number}", source="d.txt"))
                for _ in range(15):
                    yield pb.CreateIngestJobRequest(data=piece)

        upload = house.erin.CreateIngestJob(frames())
        with pytest.raises(grpc.aio.AioRpcError):
            await upload
        assert await upload.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = status_pb2.Status.FromString(dict(await upload.trailing_metadata())[DETAILS_KEY]).details
        assert [detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details] == [False, True]
        assert spooled(tmp_path) == []


async def test_a_bulletin_and_a_price_are_found_seconds_after_they_appear(tmp_path: Path) -> None:
    bulletins = tmp_path / "bulletins"
    bulletins.mkdir()
    async with Site().open() as site:
        site.body = json.dumps({"id": "diesel", "text": "The price of diesel is 171."}).encode()
        (tmp_path / "sources.toml").write_text(
            f"""
            [[source]]
            name = "bulletins"
            tenant = "halden"
            kind = "folder"
            path = "{bulletins}"
            every_seconds = 1
            delete_missing = true

            [[source]]
            name = "prices"
            tenant = "halden"
            kind = "feed"
            format = "jsonl"
            url = "{site.url("prices")}"
            every_seconds = 1
            """
        )

        def shows(query: str, *wanted: str) -> Callable[[], Awaitable[bool]]:
            async def look() -> bool:
                return await texts(house.alice, query) == list(wanted)

            return look

        async with retriever(tmp_path, sources_file=tmp_path / "sources.toml") as house:
            await ended(house.bea, await create(house.bea, ("own", b"Opening hours.")))
            await until(shows("price diesel", "The price of diesel is 171."))
            site.body = json.dumps({"id": "diesel", "text": "The price of diesel is 168."}).encode()
            (tmp_path / "storm.new").write_text("# Storm\n\nCover for storm begins at once.")
            os.rename(tmp_path / "storm.new", bulletins / "storm.md")
            await until(shows("price diesel", "The price of diesel is 168."))

            async def has_storm() -> bool:
                return len(await texts(house.alice, "storm cover")) == 1

            await until(has_storm)
            request = pb.SearchRequest(query="storm cover", mode=pb.SEARCH_MODE_SPARSE)
            (storm,) = (await house.alice.Search(request)).passages
            assert (storm.document_id, storm.title) == ("bulletins.storm.md", "Storm")
            assert await texts(house.bea, "storm diesel") == []
            (bulletins / "hail.md").write_text("Hail is covered.")
            (bulletins / "storm.md").unlink()
            await until(shows("storm hail", "Hail is covered."))
            for origin, least in (("folder", 2), ("feed", 2)):
                assert house.value("tandem_retriever_freshness_seconds_count", {"origin": origin}) >= least
                within = {"origin": origin, "le": "10.0"}
                assert house.value("tandem_retriever_freshness_seconds_bucket", within) >= least


async def test_a_mistake_in_the_sources_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "sources.toml").write_text('[[source]]\nname = "x"\ntenant = "halden"\nkind = "folder"\npath = "x"\n')
    with pytest.raises(ConfigError, match="line 5: path must be the absolute path"):
        async with retriever(tmp_path, sources_file=tmp_path / "sources.toml"):
            pass
