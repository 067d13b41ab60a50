"""Domains over real gRPC: who sees which, what a question takes from its own, and files that change under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from services.router.domain import LabelCondition
from tandem import errors
from tandem.client import AsyncRouterClient
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.v1 import domains_pb2, router_service_pb2
from tandem.v1.router_service_pb2_grpc import RouterServiceStub
from tests.fakes.router import World, Written
from tests.fakes.router_peers import stack

QUESTION = "What is the excess for collision?"
CLAIMS = """
description = "Motor claims"
tenants = ["halden"]
policy = "rag"
answer_adapter = "answers"
reading_adapter = ""
snapshot = "march"
latency_objective_ms = 800

[documents]
kind = ["tariff", "bulletin"]
draft = false

[costs]
per_search = 0.25
"""


@asynccontextmanager
async def client(address: str, token: str = "alice") -> AsyncIterator[AsyncRouterClient]:
    async with AsyncRouterClient(address, token=token, timeout=20) as made:
        yield made


async def listed(address: str, token: str = "alice") -> list[domains_pb2.Domain]:
    async with client(address, token) as asking:
        return [domain async for domain in asking.list_domains()]


async def test_a_question_takes_all_it_needs_from_its_domain(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text(CLAIMS)
    world = World()
    async with stack(world, tmp_path, domains_dir=tmp_path) as address, client(address) as asking:
        answer = await asking.ask(QUESTION)
        named = await asking.ask(QUESTION, domain="claims", max_cost=0.25)
        with pytest.raises(errors.FailedPrecondition, match="no room for"):
            await asking.ask(QUESTION, max_cost=0.1)
    assert (answer.domain, answer.decision.policy, named.domain) == ("claims", "rag", "claims")
    assert answer.lineage.adapter == ""
    assert (answer.cost.amount, answer.cost.currency) == (0.25, "EUR")
    kinds = LabelCondition("kind", ("tariff", "bulletin"))
    assert world.retriever.narrowed[0] == ((kinds, LabelCondition("draft", excluded=True)), "march")


async def test_each_tenant_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text(CLAIMS)
    (tmp_path / "shared.toml").write_text("")
    async with stack(World(), tmp_path, domains_dir=tmp_path) as address:
        ours, theirs = await listed(address), await listed(address, "bea")
        async with client(address, "bea") as asking:
            answer = await asking.ask(QUESTION, policy="rag")
            for refused in (asking.ask(QUESTION, domain="claims"), asking.advise(domain="claims")):
                with pytest.raises(errors.NotFound):
                    await refused
    assert [domain.name for domain in ours] == ["claims", "shared"]
    assert [domain.name for domain in theirs] == ["shared"]
    assert answer.domain == "shared"
    assert (ours[0].description, ours[0].policy, ours[0].snapshot) == ("Motor claims", "rag", "march")
    assert ours[0].latency_objective.ToMilliseconds() == 800
    assert ours[0].below_groundedness == "abstain"


async def test_a_file_that_changes_is_read_while_questions_are_asked(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text('policy = "rag"')
    limits = {"domains_dir": tmp_path, "domains_refresh_seconds": 0.1}
    world = World()
    world.generator.sequences["answers"] = Written(mean_logprob=-0.001)
    async with stack(world, tmp_path, **limits) as address, client(address) as asking:
        assert (await asking.ask(QUESTION)).decision.policy == "rag"
        (tmp_path / "claims.toml").write_text('policy = "cascade"')
        async with asyncio.timeout(20):
            while (answer := await asking.ask(QUESTION)).decision.policy != "cascade":
                pass
        assert answer.lineage.adapter == "answers"
        (tmp_path / "claims.toml").write_text('policy = "oracle"')
        async with asyncio.timeout(20):
            while not (await listed(address))[0].fault:
                pass
        assert (await asking.ask(QUESTION)).decision.policy == "cascade"


async def test_without_a_folder_the_settings_are_the_domain(tmp_path: Path) -> None:
    async with stack(World(), tmp_path, default_policy="rag", min_groundedness=0.25) as address:
        (domain,) = await listed(address, "bea")
    assert (domain.name, domain.policy, domain.min_groundedness) == ("default", "rag", 0.25)


async def test_the_default_policy_is_that_of_the_callers_default_domain(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('tenants = ["halden"]\npolicy = "dual"')
    request = router_service_pb2.ListPoliciesRequest()
    named: list[str] = []
    async with stack(World(), tmp_path, domains_dir=tmp_path) as address:
        for caller in ("alice", "bea"):
            async with connect(address, token=caller) as channel:
                named.append((await RouterServiceStub(channel).ListPolicies(request)).default_policy)
    assert named == ["dual", ""]


async def test_pages_are_bounded(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"d{number}.toml").write_text("")
    request = domains_pb2.ListDomainsRequest(page_size=2)
    async with stack(World(), tmp_path, domains_dir=tmp_path) as address, connect(address, token="alice") as channel:
        rpc = RouterServiceStub(channel)
        names: list[list[str]] = []
        while not names or request.page_token:
            page = await rpc.ListDomains(request)
            names.append([domain.name for domain in page.domains])
            request.page_token = page.next_page_token
        for size in (-1, 1001):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc.ListDomains(domains_pb2.ListDomainsRequest(page_size=size))
            error = from_rpc_error(caught.value)
            assert isinstance(error, errors.InvalidInput)
            assert [fault.field for fault in error.violations] == ["page_size"]
    assert names == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert page.default_domain == "d0"
