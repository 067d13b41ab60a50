"""The client SDK: both twins send the same requests, and raise Tandem's own errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tandem import client as sdk
from tandem import errors
from tandem.client.requests import DATA_FRAME_BYTES
from tandem.v1 import advice_pb2 as advice
from tandem.v1 import audit_service_pb2 as audit
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1 import retriever_service_pb2 as retriever
from tandem.v1 import router_service_pb2 as router
from tests.fakes.rpc_canned import Canned
from tests.fakes.rpc_hosting import hosted

TWINS = pytest.mark.parametrize("prefix", ["", "Async"], ids=["blocking", "async"])


async def use(
    address: str, name: str, method: str, *arguments: object, timeout: float = 20.0, **more: object
) -> object:
    """Calls a method of the named client, blocking or not; a stream comes back as a list."""
    cls = getattr(sdk, name)
    if name.startswith("Async"):
        async with cls(address, token="alice-token", timeout=timeout) as client:
            outcome = getattr(client, method)(*arguments, **more)
            return [item async for item in outcome] if hasattr(outcome, "__aiter__") else await outcome

    def work() -> object:
        with cls(address, token="alice-token", timeout=timeout) as client:
            outcome = getattr(client, method)(*arguments, **more)
            return list(outcome) if inspect.isgenerator(outcome) else outcome

    return await asyncio.to_thread(work)


def test_the_twins_are_alike() -> None:
    for name in ("Router", "Embedder", "Retriever", "Generator", "Audit"):
        blocking, twin = getattr(sdk, f"{name}Client"), getattr(sdk, f"Async{name}Client")
        methods = {key for key, value in vars(blocking).items() if inspect.isfunction(value) and key[0] != "_"}
        assert methods == {key for key, value in vars(twin).items() if inspect.isfunction(value) and key[0] != "_"}
        for method in methods:
            ours = inspect.signature(getattr(blocking, method)).parameters
            theirs = inspect.signature(getattr(twin, method)).parameters
            assert [(p.name, p.kind, p.default) for p in ours.values()] == [
                (p.name, p.kind, p.default) for p in theirs.values()
            ]


@TWINS
async def test_a_question_is_asked_with_all_that_belongs_to_it(prefix: str) -> None:
    events = [
        router.StreamAskResponse(started=router.AnswerStarted(answer_id="a1")),
        router.StreamAskResponse(finished=router.AnswerFinished(answer=router.Answer(answer_id="a1"))),
    ]
    canned = Canned(Ask=router.AskResponse(answer=router.Answer(answer_id="a1", text="yes")), StreamAsk=events)
    more = {
        "policy": "rag",
        "history": [("before?", "so")],
        "max_passages": 3,
        "as_of": datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))),
    }
    async with hosted(canned.app()) as address:
        answer = await use(address, f"{prefix}RouterClient", "ask", "now?", **more)
        assert await use(address, f"{prefix}RouterClient", "stream", "now?", **more) == events
        await use(address, f"{prefix}RouterClient", "ask", "plain?")
    assert answer == router.Answer(answer_id="a1", text="yes")
    full, plain = canned.asked["Ask"]
    assert canned.asked["StreamAsk"] == [router.StreamAskRequest(request=full)]
    assert (full.question, full.policy, full.max_passages) == ("now?", "rag", 3)
    assert full.history == [router.Turn(question="before?", answer="so")]
    assert full.as_of.ToDatetime(UTC) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert plain == router.AskRequest(question="plain?")
    assert not plain.HasField("max_passages")
    assert not plain.HasField("as_of")


@TWINS
async def test_a_failure_is_raised_as_what_it_is(prefix: str) -> None:
    refusal = errors.Overloaded("full", retry_after_s=1.5, metadata={"queue": "8"})
    late = [
        router.StreamAskResponse(started=router.AnswerStarted()),
        errors.FailedPrecondition("x", reason="NO_ADAPTER"),
    ]
    canned = Canned(Ask=refusal, StreamAsk=late)
    async with hosted(canned.app()) as address:
        with pytest.raises(errors.Overloaded) as caught:
            await use(address, f"{prefix}RouterClient", "ask", "q")
        assert (caught.value.retry_after_s, caught.value.metadata) == (1.5, {"queue": "8"})
        with pytest.raises(errors.FailedPrecondition) as other:
            await use(address, f"{prefix}RouterClient", "stream", "q")
        assert other.value.reason == "NO_ADAPTER"
    with pytest.raises(errors.Unavailable):
        await use(address, f"{prefix}RouterClient", "ask", "q", timeout=5.0)


@TWINS
async def test_a_client_waits_no_longer_than_it_was_told(prefix: str) -> None:
    class Slow(Canned):
        def _unary(self, method: str):
            async def answer(servicer, request, context):
                await asyncio.Event().wait()

            return answer

    async with hosted(Slow().app()) as address:
        with pytest.raises(errors.DeadlineExceeded):
            await use(address, f"{prefix}GeneratorClient", "get_model", timeout=0.2)


@TWINS
async def test_documents_are_cut_into_frames(prefix: str) -> None:
    done = retriever.IngestDocumentsResponse(finished=retriever.IngestFinished(num_indexed=2))
    taken = retriever.IngestJob(job_id="j1", num_documents=2)
    canned = Canned(IngestDocuments=[done], CreateIngestJob=retriever.CreateIngestJobResponse(job=taken))
    big = bytes(range(256)) * 5000
    uploads = [
        sdk.Upload("a", "a.txt", big, groups=("g",), valid_until=datetime(2026, 1, 1), attributes={"k": "v"}),
        sdk.Upload("b", "b.txt", b""),
    ]
    async with hosted(canned.app()) as address:
        assert await use(address, f"{prefix}RetrieverClient", "ingest", uploads) == [done]
        assert await use(address, f"{prefix}RetrieverClient", "create_job", uploads) == taken
    frames = canned.asked["IngestDocuments"]
    of_a_job = canned.asked["CreateIngestJob"]
    assert [(frame.header, frame.data) for frame in of_a_job] == [(frame.header, frame.data) for frame in frames]
    headers = [frame.header for frame in frames if frame.HasField("header")]
    assert [header.document_id for header in headers] == ["a", "b"]
    assert (list(headers[0].groups), dict(headers[0].attributes)) == (["g"], {"k": "v"})
    assert headers[0].valid_until.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert not headers[0].HasField("valid_from")
    pieces = [frame.data for frame in frames if frame.HasField("data")]
    assert b"".join(pieces) == big
    assert all(0 < len(piece) <= DATA_FRAME_BYTES for piece in pieces)


@TWINS
async def test_lists_are_read_to_the_last_page(prefix: str) -> None:
    def pages(cls, field: str, rows: list) -> list:
        return [cls(**{field: rows[:2]}, next_page_token="p2"), cls(next_page_token="p3"), cls(**{field: rows[2:]})]

    documents = [retriever.Document(document_id=name) for name in "abc"]
    adapters = [generator.Adapter(name=name) for name in "abc"]
    records = [audit.AuditRecord(sequence=number) for number in (3, 2, 1)]
    jobs = [retriever.IngestJob(job_id=name) for name in "cba"]
    results = [retriever.IngestResult(document_id=name) for name in "abc"]
    snapshots = [retriever.Snapshot(snapshot_id=name) for name in "cba"]
    differences = [retriever.DocumentDifference(document_id=name) for name in "abc"]
    canned = Canned(
        ListIngestJobs=pages(retriever.ListIngestJobsResponse, "jobs", jobs),
        ListIngestJobResults=pages(retriever.ListIngestJobResultsResponse, "results", results),
        ListSnapshots=pages(retriever.ListSnapshotsResponse, "snapshots", snapshots),
        DiffSnapshot=pages(retriever.DiffSnapshotResponse, "differences", differences),
        ListDocuments=pages(retriever.ListDocumentsResponse, "documents", documents),
        ListAdapters=pages(generator.ListAdaptersResponse, "adapters", adapters),
        ListAuditRecords=pages(audit.ListAuditRecordsResponse, "records", records),
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with hosted(canned.app()) as address:
        assert await use(address, f"{prefix}RetrieverClient", "list_documents") == documents
        assert await use(address, f"{prefix}GeneratorClient", "list_adapters") == adapters
        assert await use(address, f"{prefix}AuditClient", "list_records", start=start) == records
        finding = f"{prefix}RetrieverClient"
        assert await use(address, finding, "list_jobs") == jobs
        assert await use(address, finding, "list_job_results", "j1", rejected_only=True) == results
        assert await use(address, finding, "list_snapshots") == snapshots
        assert await use(address, finding, "diff_snapshot", "next") == differences
    assert len(canned.asked) == 7
    for requests in canned.asked.values():
        assert [request.page_token for request in requests] == ["", "p2", "p3"]
    wanted = [(request.job_id, request.rejected_only) for request in canned.asked["ListIngestJobResults"]]
    assert wanted == [("j1", True)] * 3
    assert {request.snapshot_id for request in canned.asked["DiffSnapshot"]} == {"next"}
    assert {request.start_time.seconds for request in canned.asked["ListAuditRecords"]} == {int(start.timestamp())}


@TWINS
async def test_the_rest_passes_through(prefix: str) -> None:
    chain = audit.ChainReport(writer="w", intact=True)
    record = audit.AuditRecord(answer_id="a1")
    canned = Canned(
        Embed=embedder.EmbedResponse(embeddings=[embedder.Embedding(values=[1.0])]),
        GetEmbeddingModel=embedder.GetEmbeddingModelResponse(dimension=3),
        StreamEmbed=[embedder.StreamEmbedResponse(finished=embedder.EmbedFinished(num_embeddings=2))],
        Rerank=embedder.RerankResponse(scores=[0.5]),
        ClassifyPairs=embedder.ClassifyPairsResponse(labels=["entailment"]),
        Search=retriever.SearchResponse(passages=[{"document_id": "d"}]),
        GetDocument=retriever.GetDocumentResponse(text="t"),
        DeleteDocument=retriever.DeleteDocumentResponse(num_chunks=4),
        Generate=generator.GenerateResponse(text="g"),
        StreamGenerate=[generator.StreamGenerateResponse(delta=generator.GenerationDelta(text="g"))],
        GetModel=generator.GetModelResponse(precision="bfloat16"),
        Score=generator.ScoreResponse(scores=[generator.ContinuationScore(greedy=True)]),
        Sample=generator.SampleResponse(num_clusters=3),
        LoadAdapter=generator.LoadAdapterResponse(replaced_sha256="ab"),
        UnloadAdapter=generator.UnloadAdapterResponse(),
        PromoteAdapter=generator.PromoteAdapterResponse(previous_version="p"),
        RollBackAdapter=generator.RollBackAdapterResponse(previous_version="r"),
        SetAdapterCanary=generator.SetAdapterCanaryResponse(adapter=generator.Adapter(canary_share=0.5)),
        ListPolicies=router.ListPoliciesResponse(default_policy="cascade"),
        Advise=advice.AdviseResponse(tree_svg="<svg/>"),
        GetAuditRecords=audit.GetAuditRecordsResponse(records=[record]),
        VerifyAuditChain=audit.VerifyAuditChainResponse(chains=[chain]),
    )

    async def endless() -> AsyncIterator[str]:
        for text in ("a", "b"):
            yield text

    prompt = generator.GenerateRequest(text="p")
    async with hosted(canned.app()) as address:
        embedding, finding, making, auditing, asking = (
            f"{prefix}{name}Client" for name in ("Embedder", "Retriever", "Generator", "Audit", "Router")
        )
        assert (await use(address, embedding, "embed", ["a", "b"])).embeddings[0].values == [1.0]
        assert (await use(address, embedding, "get_model")).dimension == 3
        (event,) = await use(address, embedding, "stream", endless() if prefix else ["a", "b"])
        assert event.finished.num_embeddings == 2
        assert (await use(address, embedding, "rerank", "q", ["a"])).scores == [0.5]
        assert (await use(address, embedding, "classify_pairs", [("a", "b")])).labels == ["entailment"]
        assert (await use(address, finding, "search", "q", top_k=7)).passages[0].document_id == "d"
        assert (await use(address, finding, "get_document", "d", include_text=True)).text == "t"
        assert await use(address, finding, "delete_document", "d") == 4
        assert (await use(address, making, "generate", prompt)).text == "g"
        assert [event.delta.text for event in await use(address, making, "stream", prompt)] == ["g"]
        assert (await use(address, making, "get_model")).precision == "bfloat16"
        item = generator.ScoreItem(text="p", continuation="c")
        batch = generator.PRIORITY_BATCH
        assert (await use(address, making, "score", [item], adapter="a", priority=batch)).scores[0].greedy
        assert (await use(address, making, "sample", prompt, num_samples=4)).num_clusters == 3
        assert (await use(address, making, "load_adapter", "a")).replaced_sha256 == "ab"
        assert await use(address, making, "unload_adapter", "b") is None
        assert (await use(address, making, "promote_adapter", "a", version="v")).previous_version == "p"
        assert (await use(address, making, "roll_back_adapter", "a")).previous_version == "r"
        assert (await use(address, making, "set_adapter_canary", "a", 0.5, version="v")).adapter.canary_share == 0.5
        assert (await use(address, asking, "list_policies")).default_policy == "cascade"
        described = advice.DomainProfile(compliance="audit")
        assert (await use(address, asking, "advise", described, domain="d", include_tree=True)).tree_svg == "<svg/>"
        assert await use(address, auditing, "get_records", "a1") == [record]
        assert await use(address, auditing, "verify") == [chain]
    assert canned.asked["Embed"][0].texts == ["a", "b"]
    assert canned.asked["Advise"] == [advice.AdviseRequest(domain="d", profile=described, include_tree=True)]
    assert [request.text for request in canned.asked["StreamEmbed"]] == ["a", "b"]
    assert canned.asked["Rerank"] == [embedder.RerankRequest(query="q", texts=["a"])]
    assert canned.asked["ClassifyPairs"] == [embedder.ClassifyPairsRequest(pairs=[{"first": "a", "second": "b"}])]
    assert canned.asked["Search"][0].top_k == 7
    assert canned.asked["StreamGenerate"] == [generator.StreamGenerateRequest(request=prompt)]
    assert canned.asked["Score"] == [generator.ScoreRequest(items=[item], adapter="a", priority=batch)]
    assert canned.asked["Sample"] == [generator.SampleRequest(request=prompt, num_samples=4)]
    assert canned.asked["LoadAdapter"] == [generator.LoadAdapterRequest(name="a")]
    assert canned.asked["UnloadAdapter"] == [generator.UnloadAdapterRequest(name="b")]
    assert canned.asked["PromoteAdapter"] == [generator.PromoteAdapterRequest(name="a", version="v")]
    assert canned.asked["RollBackAdapter"] == [generator.RollBackAdapterRequest(name="a")]
    assert canned.asked["SetAdapterCanary"] == [generator.SetAdapterCanaryRequest(name="a", share=0.5, version="v")]


@TWINS
async def test_jobs_and_snapshots_are_named_and_told(prefix: str) -> None:
    job, snapshot = retriever.IngestJob(job_id="j1"), retriever.Snapshot(snapshot_id="next")
    canned = Canned(
        GetIngestJob=retriever.GetIngestJobResponse(job=job),
        CancelIngestJob=retriever.CancelIngestJobResponse(job=job),
        CreateSnapshot=retriever.CreateSnapshotResponse(snapshot=snapshot),
        GetSnapshot=retriever.GetSnapshotResponse(snapshot=snapshot),
        PromoteSnapshot=retriever.PromoteSnapshotResponse(snapshot=snapshot),
        RollBackSnapshot=retriever.RollBackSnapshotResponse(snapshot=snapshot),
        DeleteSnapshot=retriever.DeleteSnapshotResponse(),
    )
    more = {"chunk_characters": 200, "analyzer": "standard", "as_of": datetime(2026, 1, 31, tzinfo=UTC)}
    async with hosted(canned.app()) as address:
        client = f"{prefix}RetrieverClient"
        assert await use(address, client, "get_job", "j1") == job
        assert await use(address, client, "cancel_job", "j1") == job
        assert await use(address, client, "create_snapshot", "next", **more) == snapshot
        assert await use(address, client, "create_snapshot", "next") == snapshot
        assert await use(address, client, "get_snapshot", "next") == snapshot
        assert await use(address, client, "promote_snapshot", "next") == snapshot
        assert await use(address, client, "roll_back_snapshot") == snapshot
        assert await use(address, client, "delete_snapshot", "next") is None
    assert [canned.asked[method][0].job_id for method in ("GetIngestJob", "CancelIngestJob")] == ["j1", "j1"]
    full, plain = canned.asked["CreateSnapshot"]
    assert (full.chunk_characters, full.analyzer) == (200, "standard")
    assert full.as_of.ToDatetime(UTC) == more["as_of"]
    assert plain == retriever.CreateSnapshotRequest(snapshot_id="next")
    for method in ("GetSnapshot", "PromoteSnapshot", "DeleteSnapshot"):
        assert [request.snapshot_id for request in canned.asked[method]] == ["next"]
    assert canned.asked["RollBackSnapshot"] == [retriever.RollBackSnapshotRequest()]


@TWINS
async def test_a_search_says_all_that_it_is_told(prefix: str) -> None:
    canned = Canned(Search=retriever.SearchResponse())
    more = {
        "top_k": 3,
        "mode": retriever.SEARCH_MODE_DENSE,
        "as_of": datetime(2026, 1, 31, tzinfo=UTC),
        "search_filter": retriever.SearchFilter(document_ids=["a"]),
        "fusion": retriever.Fusion(weighted=retriever.Fusion.Weighted(dense_weight=0.0)),
        "diversity": 0.5,
        "num_neighbors": 1,
        "keep_duplicates": True,
        "rerank": False,
        "snapshot": "next",
        "query_vector": [0.5, 0.25],
        "query_model_sha256": "0" * 64,
    }
    async with hosted(canned.app()) as address:
        for options in (more, {}):
            await use(address, f"{prefix}RetrieverClient", "search", "q", **options)
    full, plain = canned.asked["Search"]
    told = {**more, "query": "q", "filter": more["search_filter"], "as_of": {"seconds": int(more["as_of"].timestamp())}}
    del told["search_filter"]
    assert full == retriever.SearchRequest(**told)
    assert {field.name for field, _ in full.ListFields()} | {"rerank"} == set(full.DESCRIPTOR.fields_by_name)
    assert full.HasField("rerank")
    assert plain == retriever.SearchRequest(query="q", top_k=5, mode=retriever.SEARCH_MODE_HYBRID)


async def test_leaving_a_stream_cancels_it() -> None:
    left = asyncio.Event()

    class Endless(Canned):
        def _streaming(self, method: str):
            async def answer(servicer, request, context):
                try:
                    while True:
                        yield router.StreamAskResponse(delta=router.AnswerDelta(text="x"))
                        await asyncio.sleep(0)
                finally:
                    left.set()

            return answer

    async with hosted(Endless().app()) as address:
        async with sdk.AsyncRouterClient(address, token="alice-token") as client:
            events = client.stream("q")
            assert (await anext(events)).delta.text == "x"
            await events.aclose()
            await asyncio.wait_for(left.wait(), 20)
        left.clear()

        def work() -> None:
            with sdk.RouterClient(address, token="alice-token") as client:
                for _ in client.stream("q"):
                    break

        await asyncio.to_thread(work)
        await asyncio.wait_for(left.wait(), 20)


class Refusing(Canned):
    """Refuses before it has read what is sent."""

    def _unary(self, method: str):
        async def answer(servicer, request, context):
            raise errors.Overloaded("no", retry_after_s=2.0)

        return answer

    def _streaming(self, method: str):
        async def answer(servicer, request, context):
            raise errors.PermissionDenied("no")
            yield

        return answer


async def test_a_refused_stream_is_raised_as_what_it_is_while_requests_are_still_sent() -> None:
    async def texts() -> AsyncIterator[str]:
        for _ in range(300):
            yield "x" * 10_000

    async with hosted(Refusing().app()) as address:
        async with sdk.AsyncEmbedderClient(address, token="alice-token") as client:
            for _ in range(20):
                with pytest.raises((errors.PermissionDenied, errors.Unavailable)) as caught:
                    await anext(client.stream(texts()))
                assert caught.value.reason in ("PERMISSION_DENIED", "STREAM_ENDED_EARLY")


@TWINS
async def test_a_refused_job_is_raised_as_what_it_is_while_documents_are_still_sent(prefix: str) -> None:
    uploads = [sdk.Upload(f"d{number}", "d.txt", b"x" * 400_000) for number in range(20)]
    async with hosted(Refusing().app()) as address:
        for _ in range(20):
            with pytest.raises((errors.Overloaded, errors.Unavailable)) as caught:
                await use(address, f"{prefix}RetrieverClient", "create_job", uploads)
            assert caught.value.reason in ("OVERLOADED", "STREAM_ENDED_EARLY" if prefix else "")
