"""The adapters that ship with the sample company: their records are true, and they answer."""

import hashlib
import json
from pathlib import Path

import pytest

from services.generator.__main__ import build
from services.generator.config import GeneratorConfig
from tandem.adapters import WEIGHTS, Trust, read_version
from tandem.errors import Unauthenticated
from tandem.prompts import ABSTENTION, Message, closed_book, reading
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc as pb_grpc

ADAPTERS = Path(__file__).parents[2] / "examples/company/adapters"
ALICE = Principal(subject="alice", tenant="halden", roles=frozenset({"user"}))
PASSAGES = [
    "5 Excess\n\nThe standard excess of Halden Ship is EUR 275 for each claim.",
    "6 Your duties\n\nReport damage to the rudder within 9 days.",
]


class OnlyAlice:
    """Takes one token."""

    def resolve(self, token: str) -> Principal:
        if token != "alice":
            raise Unauthenticated("unknown token")
        return ALICE


@pytest.mark.parametrize("place", ["halden/answers", "halden/reading", "brightwater/answers"])
def test_each_was_let_in_by_the_gate_and_is_signed(place: str) -> None:
    (folder,) = (ADAPTERS / place / "versions").iterdir()
    opened = read_version(folder, trust=Trust.read(ADAPTERS.parent / "trusted-signers.json"))
    manifest = opened.manifest
    weights = opened.read(WEIGHTS)
    assert hashlib.sha256(weights).hexdigest() == manifest.weights_sha256
    assert len(weights) < 10_000_000
    assert manifest.gate["accepted"] is True
    gains = manifest.metrics["gains"]
    suffix = " + passages" if manifest.recipe == "raft" else ""
    for other in (f"base{suffix}", "echo the question"):
        assert gains[other]["low"] > 0


async def test_they_load_and_answer() -> None:
    config = GeneratorConfig(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        adapter_dir=ADAPTERS,
        adapter_trust_files=(str(ADAPTERS.parent / "trusted-signers.json"),),
        threads=1,
        drain_seconds=0,
    )
    telemetry = Telemetry(service="generator")
    app = await build(config, telemetry)
    async with serving(app, config, telemetry, authenticator=OnlyAlice()) as address:
        async with connect(address, token="alice", default_timeout_s=300) as channel:
            stub = pb_grpc.GeneratorServiceStub(channel)

            async def answer(messages: list[Message], adapter: str) -> str:
                chat = pb.ChatPrompt(messages=[pb.ChatMessage(role=m.role, content=m.content) for m in messages])
                request = pb.GenerateRequest(chat=chat, adapter=adapter, sampling=pb.Sampling(max_tokens=24))
                response = await stub.Generate(request)
                return str(response.text).strip()

            listed = await stub.ListAdapters(pb.ListAdaptersRequest())
            assert [adapter.name for adapter in listed.adapters] == ["answers", "reading"]
            model = await stub.GetModel(pb.GetModelRequest())
            for name in ("answers", "reading"):
                (version,) = (ADAPTERS / "halden" / name / "versions").iterdir()
                manifest = json.loads((version / "manifest.json").read_text())
                assert manifest["base"]["sha256"] == model.lineage.model_sha256
            storm = closed_book("From which wind force does Halden Home count wind as a storm?")
            assert await answer(storm, "answers") == "force 8"
            rudder = reading("Within how many days must I report rudder damage?", PASSAGES)
            assert await answer(rudder, "reading") == "9 days"
            assert await answer(reading("Who is the mayor of Lindmark?", PASSAGES), "reading") == ABSTENTION
    telemetry.close()
