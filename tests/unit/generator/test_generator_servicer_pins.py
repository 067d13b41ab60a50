"""The servicer: no pin is ever left behind, and each method asks for its role."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from services.generator.domain import Feature
from tandem.errors import FailedPrecondition, NotFound, Overloaded, PermissionDenied
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_adapters import place
from tests.fakes.generator_servicer import ALICE, OLGA, bench, item, text


def holding_adapters() -> Iterable[Any]:
    request = text(adapter="answers")
    yield request
    yield pb.StreamGenerateRequest(request=request)
    yield pb.ScoreRequest(items=[item()], adapter="answers")
    yield pb.SampleRequest(request=request)


@pytest.mark.parametrize("request_", list(holding_adapters()), ids=lambda request: type(request).__name__)
async def test_no_pin_is_left_however_a_call_ends(tmp_path: Path, request_: Any) -> None:
    """`bench` checks the pins at its end."""
    async with bench(tmp_path, fail=Overloaded("full", retry_after_s=1)) as made:
        await made.refusal(request_)
    # However early a caller leaves: at every turn of the loop from the call to the held sequence.
    for turns in range(8):
        async with bench(tmp_path, hold=True) as made:
            leaving = asyncio.create_task(made.call(request_))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)


async def test_no_pin_is_left_when_a_later_adapter_is_not_found(tmp_path: Path) -> None:
    prompts = [pb.BlendPrompt(text="a", adapter=name, weight=1) for name in ("answers", "style", "nothing", "reading")]
    blend = pb.GenerateRequest(blend=pb.Blend(prompts=prompts))
    async with bench(tmp_path) as made:
        for request in (blend, pb.StreamGenerateRequest(request=blend), pb.SampleRequest(request=blend)):
            assert isinstance(await made.refusal(request), NotFound)
            assert made.num_pins() == 0
        assert made.backend.requests == []


async def test_adapters_are_loaded_and_unloaded_by_an_operator_of_their_tenant(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        before = made.registry.find("answers", tenant="halden")
        place(tmp_path, fill=7)
        loaded = await made.call(pb.LoadAdapterRequest(name="answers"), OLGA)
        assert loaded.replaced_sha256 == before.sha256
        assert loaded.adapter.sha256 == made.registry.find("answers", tenant="halden").sha256 != before.sha256
        again = await made.call(pb.LoadAdapterRequest(name="answers"), OLGA)
        assert again.replaced_sha256 == again.adapter.sha256
        place(tmp_path, name="fresh")
        assert (await made.call(pb.LoadAdapterRequest(name="fresh"), OLGA)).replaced_sha256 == ""
        await made.call(pb.UnloadAdapterRequest(name="answers"), OLGA)
        listed = await made.call(pb.ListAdaptersRequest(), OLGA)
        assert [row.name for row in listed.adapters] == ["fresh", "reading", "style"]
        for request in (pb.LoadAdapterRequest(name="fresh"), pb.UnloadAdapterRequest(name="fresh")):
            assert isinstance(await made.refusal(request), PermissionDenied)
        stranger = Principal("x", "brightwater", roles=frozenset({"operator"}))
        for name in ("fresh", "../halden/fresh", "style", ""):
            for request in (pb.LoadAdapterRequest(name=name), pb.UnloadAdapterRequest(name=name)):
                assert isinstance(await made.refusal(request, stranger), NotFound)


async def test_a_role_is_needed_for_each_method(tmp_path: Path) -> None:
    auditor = Principal("otto", "halden", roles=frozenset({"auditor"}))
    async with bench(tmp_path) as made:
        for method in pb.DESCRIPTOR.services_by_name["GeneratorService"].methods:
            request = getattr(pb, method.input_type.name)()
            assert isinstance(await made.refusal(request, auditor), PermissionDenied), method.name


async def test_a_backend_without_adapters_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path, features=frozenset({Feature.SCORING})) as made:
        for request, principal in (
            (text(adapter="answers"), ALICE),
            (pb.LoadAdapterRequest(name="answers"), OLGA),
            (pb.UnloadAdapterRequest(name="answers"), OLGA),
        ):
            error = await made.refusal(request, principal)
            assert isinstance(error, FailedPrecondition)
            assert error.reason == "UNSUPPORTED_BY_BACKEND"
        model = await made.call(pb.GetModelRequest())
        assert (model.backend, list(model.features)) == ("torch", ["scoring"])
