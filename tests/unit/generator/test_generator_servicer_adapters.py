"""The servicer's methods on adapters: what they take, what they tell, and that no call mixes versions."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from services.generator.domain import GenerateInput
from services.generator.servicer import GeneratorServicer, Parts
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied, TandemError
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_adapters import place
from tests.fakes.generator_backend import FakeBackend
from tests.fakes.generator_registry import Bench, opened

ALICE = Principal("alice", "halden", roles=frozenset({"user"}))
OLGA = Principal("olga", "halden", roles=frozenset({"operator"}))
STRANGER = Principal("bo", "brightwater", roles=frozenset({"operator"}))


class House:
    def __init__(self, bench: Bench, versions: list[str]) -> None:
        self.bench = bench
        self.old, self.new, self.other = versions
        self.backend = FakeBackend()
        self.servicer = GeneratorServicer()
        self.servicer.adopt(Parts(backend=self.backend, registry=bench.registry, kind="torch"))

    async def call(self, request: Any, principal: Principal = OLGA) -> Any:
        method = getattr(self.servicer, type(request).__name__.removesuffix("Request"))
        with call.bind(principal=principal, deadline=None):
            return await method(request, cast(Any, None))

    async def refusal(self, request: Any, principal: Principal = OLGA) -> TandemError:
        with pytest.raises(TandemError) as caught:
            await self.call(request, principal)
        return caught.value

    def asked(self) -> list[set[str]]:
        """The versions in each request that the backend got."""
        asked = [request for request in self.backend.requests if isinstance(request, GenerateInput)]
        return [{pin.adapter.version for pin in request.pins} for request in asked]


@asynccontextmanager
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as bench:
        made = House(bench, bench.versions(1, 2, 3))
        bench.alias(made.old, made.new, 0.5)
        await bench.registry.load("answers", tenant="halden")
        yield made
        assert sum(row.num_sequences for shown in bench.registry.visible("halden") for row in shown.versions) == 0


async def test_one_lot_decides_all_that_a_call_names(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        lots = iter([0.1, 0.9, 0.1, 0.9])
        made.bench.registry.draw = lambda: next(lots)
        prompts = [pb.BlendPrompt(text=text, adapter="answers", weight=1) for text in "ab"]
        for wanted in (made.new, made.old):
            made.backend.requests.clear()
            one = pb.GenerateRequest(text="a", adapter="answers", sampling=pb.Sampling(temperature=1))
            await made.call(pb.SampleRequest(request=one, num_samples=4), ALICE)
            assert made.asked() == [{wanted}] * 4
        for wanted in (made.new, made.old):
            response = await made.call(pb.GenerateRequest(blend=pb.Blend(prompts=prompts)), ALICE)
            assert {cost.lineage.adapter_sha256[:16] for cost in response.finished.streams} == {wanted}
            assert response.finished.lineage.adapter == "answers"


async def test_a_user_may_name_a_version(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        for name, wanted in (("@stable", made.old), ("@candidate", made.new), (f"@{made.new}", made.new)):
            response = await made.call(pb.GenerateRequest(text="a", adapter=f"answers{name}"), ALICE)
            assert response.finished.lineage.adapter_sha256.startswith(wanted)
        request = pb.GenerateRequest(text="a", adapter=f"answers@{made.other}")
        assert isinstance(await made.refusal(request, ALICE), NotFound)


async def test_versions_and_aliases_are_listed(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        (row,) = (await made.call(pb.ListAdaptersRequest(), ALICE)).adapters
        assert (row.name, row.version, row.candidate_version, row.canary_share) == ("answers", made.old, made.new, 0.5)
        assert (row.previous_version, row.shared, row.sha256[:16]) == ("", False, made.old)
        assert [(version.version, list(version.aliases), version.state) for version in row.versions] == [
            (made.old, ["stable"], pb.ADAPTER_VERSION_STATE_LOADED),
            (made.new, ["candidate"], pb.ADAPTER_VERSION_STATE_LOADED),
            (made.other, [], pb.ADAPTER_VERSION_STATE_STORED),
        ]


async def test_a_user_is_told_the_code_of_a_refusal_and_an_operator_the_sentence(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        (tmp_path / "halden" / "answers" / "versions" / made.other / "manifest.sig").unlink()
        made.bench.alias(made.old, made.other)
        await made.call(pb.LoadAdapterRequest(name="answers"))
        told = []
        for caller in (ALICE, OLGA):
            (row,) = (await made.call(pb.ListAdaptersRequest(), caller)).adapters
            told += [version.refusal for version in row.versions if version.version == made.other]
        assert told == ["SIGNATURE_MISSING", "SIGNATURE_MISSING: manifest.sig is missing"]


async def test_nobody_is_told_how_many_of_other_tenants_run_on_a_shared_adapter(tmp_path: Path) -> None:
    place(tmp_path, tenant="_shared", name="style")
    async with house(tmp_path) as made:
        for name in ("style", "answers"):
            await made.bench.registry.refresh()
            pin = made.bench.registry.pin(name, tenant="halden")
            rows = {row.name: row for row in (await made.call(pb.ListAdaptersRequest(), ALICE)).adapters}
            counts = {key: (row.num_sequences, row.versions[0].num_sequences) for key, row in rows.items()}
            pin.release()
            assert counts == {"style": (0, 0), "answers": (1, 1) if name == "answers" else (0, 0)}


async def test_an_operator_promotes_and_rolls_back(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        promoted = await made.call(pb.PromoteAdapterRequest(name="answers"))
        assert (promoted.adapter.version, promoted.previous_version) == (made.new, made.old)
        assert promoted.adapter.previous_version == made.old
        again = await made.call(pb.PromoteAdapterRequest(name="answers", version=made.new))
        assert (again.adapter.version, again.previous_version) == (made.new, made.new)
        canary = await made.call(pb.SetAdapterCanaryRequest(name="answers", share=0.125, version=made.other))
        assert (canary.adapter.candidate_version, canary.adapter.canary_share) == (made.other, 0.125)
        back = await made.call(pb.RollBackAdapterRequest(name="answers"))
        assert (back.adapter.version, back.previous_version) == (made.old, made.new)
        error = await made.refusal(pb.RollBackAdapterRequest(name="answers"))
        assert (type(error), error.reason) == (FailedPrecondition, "NO_EARLIER_VERSION")


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
async def test_a_share_is_from_nothing_to_all(tmp_path: Path, share: float) -> None:
    async with house(tmp_path) as made:
        error = await made.refusal(pb.SetAdapterCanaryRequest(name="answers", share=share))
        assert isinstance(error, InvalidInput)
        assert error.violations[0].field == "share"


@pytest.mark.parametrize("kind", [pb.PromoteAdapterRequest, pb.RollBackAdapterRequest, pb.SetAdapterCanaryRequest])
async def test_who_may_change_what_serves(tmp_path: Path, kind: Any) -> None:
    async with house(tmp_path) as made:
        assert isinstance(await made.refusal(kind(name="answers"), ALICE), PermissionDenied)
        assert isinstance(await made.refusal(kind(name="answers"), STRANGER), NotFound)
        for name, error in (("", NotFound), ("../halden/answers", NotFound), ("answers@stable", InvalidInput)):
            assert isinstance(await made.refusal(kind(name=name)), error)
