"""Advise over real gRPC: the answers that were given and the documents that changed are its evidence."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from services.router.backend import PeerDocuments
from tandem import errors
from tandem.client import AsyncRouterClient
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.v1 import advice_pb2, retriever_service_pb2
from tests.fakes.router import World
from tests.fakes.router_peers import stack
from tests.fakes.rpc_canned import Canned
from tests.fakes.rpc_hosting import hosted

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PROFILE = advice_pb2.DomainProfile(
    data_volatility="quarterly",
    domain_specificity="specialised",
    compliance="audit",
    infrastructure_maturity="gpu-training",
    explainability="none",
)


def page(*ages_days: float, token: str = "") -> retriever_service_pb2.ListDocumentsResponse:
    listed = retriever_service_pb2.ListDocumentsResponse(next_page_token=token)
    for number, age in enumerate(ages_days):
        listed.documents.add(document_id=f"d{number}").update_time.FromDatetime(NOW - timedelta(days=age))
    return listed


async def test_what_was_answered_is_measured(tmp_path: Path) -> None:
    async with stack(World(), tmp_path) as address:
        async with AsyncRouterClient(address, token="alice", timeout=30) as client:
            for _ in range(20):
                await client.ask("What is the excess for collision?", policy="rag")
            response = await client.advise(PROFILE, domain="default", include_tree=True)
        async with AsyncRouterClient(address, token="bea", timeout=30) as other:
            foreign = await other.advise(PROFILE, domain="default")
        async with AsyncRouterClient(address, token="alice", timeout=30) as client:
            with pytest.raises(errors.InvalidInput) as caught:
                await client.advise(advice_pb2.DomainProfile(data_volatility="often"))
            with pytest.raises(errors.NotFound):
                await client.advise(PROFILE, domain="claims")
    (arm,) = response.advice.evidence.arms
    assert (arm.arm, arm.num_answers, arm.cited_share) == ("rag", 20, 1.0)
    assert arm.p95_duration.ToTimedelta() > timedelta(0)
    # This world's retriever cannot list documents: that is said, and the advice is given all the same.
    assert any("how the documents change" in words for words in response.advice.evidence.missing)
    assert response.advice.approach == "fine-tune"
    assert response.tree_svg.startswith("<svg")
    assert list(foreign.advice.evidence.arms) == []  # another tenant's answers are none of bea's business
    assert caught.value.violations[0].field == "profile.data_volatility"


async def test_documents_are_counted_over_all_pages() -> None:
    canned = Canned(ListDocuments=[page(1, 6.9, 30, token="more"), page(7.1, 400, 0)])
    async with hosted(canned.app()) as address, connect(address, token="alice-token") as channel:
        found = await PeerDocuments(channel, now=lambda: NOW).changes(window_days=7, timeout_s=20)
    assert (found.num_documents, found.num_changed, found.settled) == (6, 3, True)
    assert [request.page_token for request in canned.asked["ListDocuments"]] == ["", "more"]


async def test_a_collection_that_was_filled_this_week_is_not_settled() -> None:
    async with hosted(Canned(ListDocuments=page(1, 2)).app()) as address:
        async with connect(address, token="alice-token") as channel:
            found = await PeerDocuments(channel, now=lambda: NOW).changes(window_days=7, timeout_s=20)
    assert (found.num_documents, found.num_changed, found.settled) == (2, 2, False)


async def test_endless_pages_end_and_a_refusal_is_translated() -> None:
    canned = Canned(ListDocuments=page(1, token="more"))
    async with hosted(canned.app()) as address, connect(address, token="alice-token") as channel:
        with pytest.raises(errors.TooLarge, match="more than 10 documents"):
            await PeerDocuments(channel).changes(window_days=7, timeout_s=20)
    assert len(canned.asked["ListDocuments"]) == 10
    broken = Canned(ListDocuments=errors.Unavailable("no store"))
    async with hosted(broken.app()) as address, connect(address, token="alice-token") as channel:
        with pytest.raises(errors.Unavailable, match="no store"):
            await PeerDocuments(channel).changes(window_days=7, timeout_s=20)


async def test_who_may_not_ask_may_not_be_advised(tmp_path: Path) -> None:
    async with stack(World(), tmp_path) as address, connect(address, token="mute") as channel:
        method = channel.unary_unary(
            "/tandem.v1.RouterService/Advise",
            request_serializer=advice_pb2.AdviseRequest.SerializeToString,
            response_deserializer=advice_pb2.AdviseResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(advice_pb2.AdviseRequest(profile=PROFILE), timeout=20)
    assert isinstance(from_rpc_error(caught.value), errors.PermissionDenied)
