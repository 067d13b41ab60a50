"""What a search can be asked for, through gRPC and on real Milvus Lite."""

from collections.abc import AsyncIterator
from operator import mul
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from tandem.errors import FailedPrecondition, InvalidInput, TandemError
from tandem.rpc.status import from_rpc_error
from tandem.v1 import retriever_service_pb2 as pb
from tests.fakes.retriever import embed
from tests.fakes.retriever_hosting import house as running

Condition, Filter = pb.AttributeCondition, pb.SearchFilter
SECTIONS = ["Water damage is reported at once.", "Glass breakage needs no excess.", "Hail is covered too."]
MANUAL = "# Manual\n\n" + "\n\n".join(f"## Part {at}\n\n{text}" for at, text in enumerate(SECTIONS))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    async with running(tmp_path) as house:
        yield house


async def refused(house: SimpleNamespace, name: str = "alice", **fields: object) -> TandemError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(house, name).search("glass", **fields)
    return from_rpc_error(caught.value)


async def test_filters_narrow_by_id_media_type_labels_and_time(house: SimpleNamespace) -> None:
    await house.erin.put("a", b"premium one", attributes={"kind": "manual", 'é~/."': "x y"})
    await house.erin.put("b", b"premium two", attributes={"kind": "bulletin"}, source="b.txt")
    await house.erin.put("c", b"premium three", groups=["claims-leads"], attributes={"kind": "manual"})
    document = await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="b"))

    async def found(name: str = "alice", **fields: object) -> list[str]:
        return sorted(await getattr(house, name).search("premium", filter=Filter(**fields)))

    assert await found() == ["a", "b"]
    assert await found(document_ids=["b", "c"]) == ["b"]
    assert await found(media_types=["text/markdown"]) == ["a"]
    assert await found(attributes=[Condition(key="kind", values=["manual", "x"])]) == ["a"]
    assert await found("lena", attributes=[Condition(key="kind", values=["manual"])]) == ["a", "c"]
    assert await found("lena", attributes=[Condition(key="kind", values=["manual"], excluded=True)]) == ["b"]
    assert await found(attributes=[Condition(key='é~/."', values=["x y"])]) == ["a"]
    assert await found(attributes=[Condition(key='é~/."', excluded=True)]) == ["b"]
    assert await found(attributes=[Condition(key="kind"), Condition(key="kind", values=["manual"])]) == ["a"]
    assert await found(updated_since=document.document.update_time) == ["b"]
    assert await found("bea") == []


async def test_the_largest_filter_that_is_allowed_is_answered(house: SimpleNamespace) -> None:
    await house.erin.put("a", b"premium", attributes={"k0": "v0"})
    values = [f"v{at}" + "🙂" * 500 for at in range(63)]
    without = [Condition(key=f"{at}" + "é" * 60, values=values, excluded=True) for at in range(15)]
    conditions = [Condition(key="k0", values=[*values, "v0"]), *without]
    ids = ["a", *(f"{at:03}" + "z" * 125 for at in range(255))]
    assert await house.alice.search("premium", filter=Filter(document_ids=ids, attributes=conditions)) == ["a"]


async def test_neighbours_show_the_exact_range_of_the_document(house: SimpleNamespace) -> None:
    await house.erin.put("manual", MANUAL.encode())
    text = (await house.alice.stub.GetDocument(pb.GetDocumentRequest(document_id="manual", include_text=True))).text
    request = pb.SearchRequest(query="glass breakage", mode=pb.SEARCH_MODE_SPARSE, num_neighbors=1)
    found = await house.alice.stub.Search(request)
    (passage,) = found.passages
    assert passage.text == text[passage.span.start : passage.span.end]
    assert text[passage.match.start : passage.match.end] == "## Part 1\n\nGlass breakage needs no excess."
    assert (passage.span.start, passage.span.end) == (0, len(text))
    assert list(passage.headings) == ["Manual", "Part 1"]
    assert [timing.stage for timing in found.timings] == ["sparse", "check", "expand"]
    plain = await house.alice.stub.Search(pb.SearchRequest(query="glass breakage", mode=pb.SEARCH_MODE_SPARSE))
    assert not plain.passages[0].HasField("match")
    assert plain.passages[0].chunk_id == passage.chunk_id


async def test_scores_of_each_stage_come_along(house: SimpleNamespace) -> None:
    house.peer.reranks = True
    await house.erin.put("manual", MANUAL.encode())
    for fusion in (pb.Fusion(reciprocal_rank={"k": 1}), pb.Fusion(weighted={"dense_weight": 0.25})):
        request = pb.SearchRequest(query="glass breakage", fusion=fusion, rerank=True, diversity=0.2)
        found = await house.alice.stub.Search(request)
        best = found.passages[0]
        assert "Glass" in best.text
        cosine = sum(map(mul, embed("glass breakage"), embed(f"Manual > Part 1\n{best.text}")))
        assert best.dense_score == pytest.approx(cosine, abs=1e-5)
        assert best.sparse_score > 0
        assert best.rerank_score == pytest.approx(2 / 7)
        scores = [passage.score for passage in found.passages]
        assert scores == sorted(scores, reverse=True)
        stages = [timing.stage for timing in found.timings]
        assert sorted(stages) == sorted(["embed", "dense", "sparse", "check", "rerank", "diversify"])
        assert found.snapshot == "initial"


async def test_the_same_text_in_two_documents_answers_once(house: SimpleNamespace) -> None:
    await house.erin.put("a", b"Glass breakage needs no excess.", title="One")
    await house.erin.put("b", b"glass  breakage needs no EXCESS.", title="Two")
    assert len(await house.alice.search("glass breakage")) == 1
    assert sorted(await house.alice.search("glass breakage", keep_duplicates=True)) == ["a", "b"]


async def test_what_the_embedder_or_the_role_does_not_allow_is_refused(house: SimpleNamespace) -> None:
    await house.erin.put("a", b"glass")
    error = await refused(house, rerank=True)
    assert (type(error), error.reason) == (FailedPrecondition, "RERANKER_NOT_CONFIGURED")
    assert (await refused(house, snapshot="initial")).code == "PERMISSION_DENIED"
    assert await house.pia.search("glass", snapshot="initial") == ["a"]
    assert (await refused(house, "pia", snapshot="other")).code == "NOT_FOUND"


async def test_faults_are_told_with_their_fields(house: SimpleNamespace) -> None:
    error = await refused(house, top_k=-1, filter=Filter(document_ids=["Not an id"]), diversity=2.0)
    assert isinstance(error, InvalidInput)
    assert [fault.field for fault in error.violations] == ["top_k", "diversity", "filter.document_ids[0]"]
