"""The retriever as its callers see it: real Milvus Lite, real parsing processes, real gRPC."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from tandem.v1 import retriever_service_pb2 as pb
from tests.fakes import retriever_hosting as hosting
from tests.fakes.retriever import DIMENSION, embed
from tests.fakes.retriever_hosting import Caller, header, moment

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
MANUAL = b"# Claims manual\n\nReport water damage within seven days.\n\n## Glass\n\nGlass breakage needs no excess.\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    async with hosting.house(tmp_path) as running:
        yield running


def codes(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return caught.value.code()


async def test_a_document_is_found_described_listed_and_deleted(house: SimpleNamespace) -> None:
    result = await house.erin.put("manual", MANUAL, attributes={"kind": "manual"})
    assert (result.state, result.num_chunks) == (pb.IngestResult.STATE_INDEXED, 2)
    found = await house.alice.stub.Search(pb.SearchRequest(query="glass breakage excess"))
    best = found.passages[0]
    got = await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="manual", include_text=True))
    assert got.text.encode() == MANUAL
    assert best.text == got.text[best.span.start : best.span.end] == "## Glass\n\nGlass breakage needs no excess."
    assert (best.title, list(best.headings), best.source) == ("Claims manual", ["Claims manual", "Glass"], "manual.md")
    assert (best.dense_rank, best.sparse_rank) == (1, 1)
    assert [timing.stage for timing in found.timings] == ["embed", "dense", "sparse", "check"]
    assert got.document.attributes == {"kind": "manual"}
    assert (got.document.num_chunks, got.document.num_characters) == (2, len(got.text))
    assert await house.alice.listed() == [["manual"]]
    deleted = await house.erin.stub.DeleteDocument(pb.DeleteDocumentRequest(document_id="manual"))
    assert deleted.num_chunks == 2
    assert await house.alice.search("glass") == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="manual"))
    assert codes(caught) is grpc.StatusCode.NOT_FOUND


async def test_every_mode_finds_and_reports_its_ranks(house: SimpleNamespace) -> None:
    await house.erin.put("manual", MANUAL)
    for mode, dense, sparse in (
        (pb.SEARCH_MODE_DENSE, True, False),
        (pb.SEARCH_MODE_SPARSE, False, True),
        (pb.SEARCH_MODE_HYBRID, True, True),
    ):
        request = pb.SearchRequest(query="water damage", mode=mode, top_k=1, query_vector=embed("water damage"))
        found = await house.alice.stub.Search(request)
        assert [passage.HasField("dense_rank") for passage in found.passages] == [dense]
        assert [passage.HasField("sparse_rank") for passage in found.passages] == [sparse]
        stages = [stage for stage, there in (("dense", dense), ("sparse", sparse)) if there]
        assert [timing.stage for timing in found.timings] == [*stages, "check"]


async def test_unchanged_and_replaced(house: SimpleNamespace) -> None:
    first = await house.erin.put("manual", MANUAL)
    again = await house.erin.put("manual", MANUAL)
    assert again.state == pb.IngestResult.STATE_UNCHANGED
    assert (again.num_chunks, again.content_sha256) == (first.num_chunks, first.content_sha256)
    before = (await house.alice.stub.Search(pb.SearchRequest(query="glass"))).passages[0].chunk_id
    retitled = await house.erin.put("manual", MANUAL, title="Manual of 2026")
    assert retitled.state == pb.IngestResult.STATE_INDEXED
    found = (await house.alice.stub.Search(pb.SearchRequest(query="glass"))).passages
    assert (found[0].chunk_id, found[0].title) == (before, "Manual of 2026")
    await house.erin.put("manual", b"# Claims manual\n\nHail damage is covered.\n")
    found = (await house.alice.stub.Search(pb.SearchRequest(query="glass hail", top_k=10))).passages
    assert [passage.text for passage in found] == ["# Claims manual\n\nHail damage is covered."]


async def test_tenants_and_groups_are_kept_apart(house: SimpleNamespace) -> None:
    await house.erin.put("open", b"The premium is due in January.")
    await house.erin.put("leads", b"The premium may be waived by leads.", groups=["claims-leads"])
    await house.bea.put("open", b"The premium of Brightwater is due in March.", groups=["claims-leads"])
    assert set(await house.alice.search("premium")) == {"open"}
    assert set(await house.lena.search("premium")) == {"open", "leads"}
    assert await house.mallory.search("premium") == []
    found = await house.bea.stub.Search(pb.SearchRequest(query="premium"))
    assert [passage.text for passage in found.passages] == ["The premium of Brightwater is due in March."]
    assert await house.alice.listed() == [["open"]]
    assert await house.lena.listed() == [["leads", "open"]]
    assert await house.mallory.listed() == [[]]
    for caller in (house.otto, house.bea):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.stub.DeleteDocument(pb.DeleteDocumentRequest(document_id="leads"))
        assert codes(caught) is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="leads"))
    assert codes(caught) is grpc.StatusCode.NOT_FOUND


async def test_an_editor_does_not_overwrite_what_it_may_not_see(house: SimpleNamespace) -> None:
    await house.erin.put("leads", b"The premium may be waived by leads.", groups=["claims-leads"])
    result = await house.otto.put("leads", b"Nothing may be waived.")
    assert result.state == pb.IngestResult.STATE_REJECTED
    assert result.error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert await house.lena.search("waived") == ["leads"]


async def test_hostile_names_are_only_names(house: SimpleNamespace) -> None:
    odd = ['"]) or true or array_contains_any(groups, ["*"', "a\nb\x00c", "日本 🙂", "*", "%", "\\"]
    for number, group in enumerate(odd):
        await house.mallory.put(f"d{number}", b"The premium is secret.", groups=[group])
    assert await house.mallory.search("premium") == ["d3"]
    assert await house.alice.search("premium") == []
    got = await house.mallory.stub.GetDocument(pb.GetDocumentRequest(document_id="d3"))
    assert list(got.document.groups) == ["*"]


async def test_validity_decides_what_is_found(house: SimpleNamespace) -> None:
    await house.erin.put("old", b"The tariff is 100.", valid_until=moment("2026-01-01T00:00:00Z"))
    await house.erin.put("new", b"The tariff is 120.", valid_from=moment("2026-01-01T00:00:00Z"))
    await house.erin.put("far", b"The tariff is 990.", valid_from=moment("9999-01-01T00:00:00Z"))
    assert await house.alice.search("tariff", as_of=moment("2025-12-31T23:59:59.999999Z")) == ["old"]
    assert await house.alice.search("tariff", as_of=moment("2026-01-01T00:00:00Z")) == ["new"]
    assert await house.alice.search("tariff") == ["new"]


async def test_five_formats_arrive_in_one_stream_and_one_bad_file_stops_nothing(house: SimpleNamespace) -> None:
    events = await house.erin.ingest(
        (header("a"), MANUAL),
        (header("b", source="b.txt"), b"Theft must be reported to the police."),
        (header("c", source="c.html"), b"<h1>Hail</h1><p>Hail is covered.</p>"),
        (header("d", source="d.pdf"), b"%PDF-1.7 this is none"),
        (header("e", source="e.docx"), b"nor is this a zip"),
        (header("F", source="f.md"), b"a bad id"),
        (header("g", source="g.exe"), b"MZ"),
        (header("h", source="h.txt"), b"   \n"),
    )
    results = [event.result for event in events[1:-1]]
    assert [result.document_id for result in results] == ["a", "b", "c", "d", "e", "F", "g", "h"]
    assert [result.state == pb.IngestResult.STATE_INDEXED for result in results] == [True] * 3 + [False] * 5
    reasons = []
    for result in results[3:]:
        info = error_details_pb2.ErrorInfo()
        assert result.error.details[0].Unpack(info)
        reasons.append(info.reason)
    assert reasons == ["MALFORMED", "MALFORMED", "INVALID_INPUT", "UNSUPPORTED_MEDIA_TYPE", "NO_TEXT"]
    finished = events[-1].finished
    assert (finished.num_indexed, finished.num_unchanged, finished.num_rejected) == (3, 0, 5)
    assert await house.alice.listed() == [["a", "b", "c"]]


async def test_lists_page_by_document_id(house: SimpleNamespace) -> None:
    ids = [f"d{number:02d}" for number in range(12)] + ["d-", "d.z", "zz"]
    await house.erin.ingest(*((header(document_id), b"One line.") for document_id in reversed(ids)))
    pages = await house.alice.listed(page_size=4)
    assert [len(page) for page in pages] == [4, 4, 4, 3]
    assert [document_id for page in pages for document_id in page] == sorted(ids)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.alice.stub.ListDocuments(pb.ListDocumentsRequest(page_token="nonsense"))
    assert codes(caught) is grpc.StatusCode.INVALID_ARGUMENT


async def test_roles_and_requests_are_checked(house: SimpleNamespace) -> None:
    assert await refusal(house.alice, pb.IngestDocumentsRequest(header=header("x"))) is PERMISSION_DENIED
    requests: Iterable[pb.SearchRequest] = (
        pb.SearchRequest(query=" "),
        pb.SearchRequest(query="x" * 8193),
        pb.SearchRequest(query="x", top_k=101),
        pb.SearchRequest(query="x", mode=9),  # type: ignore[arg-type]
        pb.SearchRequest(query="x", query_vector=[1.0]),
        pb.SearchRequest(query="x", query_vector=[float("nan")] * DIMENSION),
        pb.SearchRequest(query="x", as_of=Timestamp(seconds=2**60)),
    )
    for request in requests:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.alice.stub.Search(request)
        assert codes(caught) is grpc.StatusCode.INVALID_ARGUMENT, request

    for frame in (pb.IngestDocumentsRequest(data=b"no header"), pb.IngestDocumentsRequest()):
        assert await refusal(house.erin, frame) is grpc.StatusCode.INVALID_ARGUMENT


async def test_documents_are_not_for_callers_without_a_reading_role(house: SimpleNamespace) -> None:
    stub = house.ida.stub
    for reading in (
        stub.Search(pb.SearchRequest(query="x", mode=pb.SEARCH_MODE_SPARSE)),
        stub.GetDocument(pb.GetDocumentRequest(document_id="x")),
        stub.ListDocuments(pb.ListDocumentsRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
        assert codes(caught) is PERMISSION_DENIED


async def refusal(caller: Caller, frame: pb.IngestDocumentsRequest) -> grpc.StatusCode:
    async def frames() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield frame

    events = caller.stub.IngestDocuments(frames())
    with pytest.raises(grpc.aio.AioRpcError):
        _ = [event async for event in events]
    return await events.code()  # the exception itself may tell of a frame that could not be sent any more


async def test_no_query_is_an_internal_error(house: SimpleNamespace) -> None:
    await house.erin.put("manual", MANUAL)
    for query in ("...", "the and of", "日本語", "\x00", "'\"\\", "x" * 8192, "🙂 " * 4000):
        await house.alice.stub.Search(pb.SearchRequest(query=query, mode=pb.SEARCH_MODE_SPARSE))


async def test_a_long_document_comes_back_whole(house: SimpleNamespace) -> None:
    text = "\n\n".join(f"Clause {number}: the sum of 🙂 {number * 7} applies." for number in range(3000))
    result = await house.erin.put("long", text.encode())
    assert result.state == pb.IngestResult.STATE_INDEXED
    got = await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="long", include_text=True))
    assert got.text == text
    found = await house.alice.stub.Search(pb.SearchRequest(query="clause 2718", mode=pb.SEARCH_MODE_SPARSE))
    for passage in found.passages:
        assert passage.text == text[passage.span.start : passage.span.end]
    assert "Clause 2718" in found.passages[0].text


async def test_metrics_tell_what_happened(house: SimpleNamespace) -> None:
    await house.erin.put("manual", MANUAL)
    await house.erin.put("manual", MANUAL)
    await house.alice.search("glass")
    value = house.registry.get_sample_value
    assert value("tandem_retriever_documents_total", {"state": "indexed"}) == 1
    assert value("tandem_retriever_documents_total", {"state": "unchanged"}) == 1
    assert value("tandem_retriever_chunks_total") == 2
    assert value("tandem_retriever_passages_total") == 2
    for stage in ("parse", "embed", "write"):
        assert value("tandem_retriever_ingest_seconds_count", {"stage": stage}) == 1
    for stage in ("embed", "dense", "sparse", "check"):
        assert value("tandem_retriever_search_seconds_count", {"mode": "hybrid", "stage": stage}) == 1
