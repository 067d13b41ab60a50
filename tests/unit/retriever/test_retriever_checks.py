"""What requests are refused for, field by field, and what is made of what is taken."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.retriever.domain import Condition, Filter, Mode, ReciprocalRank, Weighted, Wish
from services.retriever.servicer import checks
from tandem.errors import InvalidInput
from tandem.v1 import retriever_service_pb2 as pb

Attribute = pb.AttributeCondition
NAN, LATE = float("nan"), Timestamp(seconds=2**60)
FAULTS = {
    "query": [{"query": " "}, {"query": "x" * 8193}],
    "query_vector": [{"query_vector": [0.0, 0.0]}, {"query_vector": [NAN]}],
    "query_model_sha256": [{"query_model_sha256": bad} for bad in ("abc", "A" * 64, "a" * 65)],
    "top_k": [{"top_k": -1}, {"top_k": 101}],
    "mode": [{"mode": 9}],
    "as_of": [{"as_of": LATE}],
    "diversity": [{"diversity": -0.1}, {"diversity": 1.1}, {"diversity": NAN}],
    "num_neighbors": [{"num_neighbors": -1}, {"num_neighbors": 6}],
    "snapshot": [{"snapshot": "Initial"}, {"snapshot": "x" * 33}, {"snapshot": '" or true'}],
    "fusion.reciprocal_rank.k": [{"fusion": pb.Fusion(reciprocal_rank={"k": k})} for k in (-1, 1001)],
    "fusion.reciprocal_rank.dense_weight": [
        {"fusion": pb.Fusion(reciprocal_rank={"dense_weight": weight})} for weight in (-0.1, 1.1, NAN)
    ],
    "fusion.weighted.dense_weight": [{"fusion": pb.Fusion(weighted={"dense_weight": weight})} for weight in (-1, NAN)],
    "filter.document_ids": [{"filter": pb.SearchFilter(document_ids=["a"] * 257)}],
    "filter.document_ids[1]": [{"filter": pb.SearchFilter(document_ids=["a", bad])} for bad in ("", "A", '"', "a/b")],
    "filter.media_types": [{"filter": pb.SearchFilter(media_types=["a"] * 17)}],
    "filter.media_types[0]": [{"filter": pb.SearchFilter(media_types=[bad])} for bad in ("", "x" * 256)],
    "filter.attributes": [{"filter": pb.SearchFilter(attributes=[Attribute(key="k")] * 17)}],
    "filter.attributes[1].key": [
        {"filter": pb.SearchFilter(attributes=[Attribute(key="k"), Attribute(key=bad)])} for bad in ("", "x" * 65)
    ],
    "filter.attributes[0].values": [
        {"filter": pb.SearchFilter(attributes=[Attribute(key="k", values=bad)])} for bad in (["v"] * 65, ["x" * 513])
    ],
    "filter.updated_since": [{"filter": pb.SearchFilter(updated_since=LATE)}],
}


@pytest.mark.parametrize(("field", "fields"), [(field, some) for field, each in FAULTS.items() for some in each])
def test_a_fault_names_its_field(field: str, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        checks.wish(pb.SearchRequest(**{"query": "x", **fields}))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_all_faults_are_told_at_once_and_their_number_is_bounded() -> None:
    with pytest.raises(InvalidInput, match="and 2 more faults") as caught:
        checks.wish(pb.SearchRequest(top_k=-1, num_neighbors=9))
    assert [violation.field for violation in caught.value.violations] == ["query", "top_k", "num_neighbors"]
    with pytest.raises(InvalidInput) as caught:
        checks.wish(pb.SearchRequest(query="x", filter=pb.SearchFilter(document_ids=[""] * 1000)))
    assert len(caught.value.violations) == 20


def test_an_empty_request_asks_for_the_defaults() -> None:
    assert checks.wish(pb.SearchRequest(query="x")) == Wish("x", vector=[])
    unset = pb.SearchRequest(query="x", fusion=pb.Fusion(), filter=pb.SearchFilter())
    assert checks.wish(unset) == Wish("x", vector=[])


def test_everything_that_is_asked_for_is_taken_over() -> None:
    request = pb.SearchRequest(
        query="x",
        query_vector=[0.5, -1.0],
        query_model_sha256="0" * 64,
        top_k=100,
        mode=pb.SEARCH_MODE_DENSE,
        as_of=Timestamp(seconds=-1, nanos=999_999_999),
        filter=pb.SearchFilter(
            document_ids=["a", "b", "a"],
            media_types=["text/plain"],
            attributes=[Attribute(key="k", values=["", "v"], excluded=True), Attribute(key="k")],
            updated_since=Timestamp(seconds=0),
        ),
        fusion=pb.Fusion(reciprocal_rank={"dense_weight": 0.0}),
        diversity=1,
        num_neighbors=5,
        keep_duplicates=True,
        rerank=False,
        snapshot="next-1",
    )
    assert checks.wish(request) == Wish(
        query="x",
        vector=[0.5, -1.0],
        vector_model="0" * 64,
        top_k=100,
        mode=Mode.DENSE,
        moment=-1,
        filter=Filter(
            document_ids=frozenset("ab"),
            media_types=frozenset({"text/plain"}),
            conditions=(Condition("k", frozenset({"", "v"}), excluded=True), Condition("k")),
            updated_since=0,
        ),
        fusion=ReciprocalRank(60, 0.0),
        diversity=1.0,
        num_neighbors=5,
        keep_duplicates=True,
        rerank=False,
        snapshot="next-1",
    )


@pytest.mark.parametrize(
    ("message", "fusion"),
    [
        (pb.Fusion(reciprocal_rank={}), ReciprocalRank(60, 0.5)),
        (pb.Fusion(reciprocal_rank={"k": 1, "dense_weight": 1}), ReciprocalRank(1, 1.0)),
        (pb.Fusion(weighted={}), Weighted(0.5)),
        (pb.Fusion(weighted={"dense_weight": 0}), Weighted(0.0)),
    ],
)
def test_what_a_fusion_leaves_open_is_the_default(message: pb.Fusion, fusion: object) -> None:
    assert checks.wish(pb.SearchRequest(query="x", fusion=message)).fusion == fusion


def test_whoever_sends_what_cannot_be_read_learns_what_can() -> None:
    _, error = checks.header(pb.DocumentHeader(document_id="a", source="a.md", media_type="image/png"))
    assert error is not None
    assert "'image/png' is not supported; known are application/pdf, " in error.message
    assert "text/markdown" in error.message
    _, error = checks.header(pb.DocumentHeader(document_id="a", source="a.png"))
    assert error is not None
    assert error.reason == "UNSUPPORTED_MEDIA_TYPE"
    assert "give a source that ends in .md, .markdown, .txt" in error.message
    assert "media type" in error.message
    assert checks.header(pb.DocumentHeader(document_id="a", source="a", media_type="text/plain"))[1] is None
