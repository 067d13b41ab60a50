"""Serves a generator inside the test's own loop, with principals whose tokens are their names."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.generator.__main__ import build
from services.generator.backend.weights import weights_sha256
from services.generator.config import GeneratorConfig
from tandem.adapters import Cipher, Keyring
from tandem.client import AsyncGeneratorClient
from tandem.errors import TandemError, Unauthenticated
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc as pb_grpc
from tests.fakes.adapter_versions import CIPHER, TRUST, publish
from tests.fakes.generator_model import write_adapter, write_model

PRINCIPALS = {
    "alice": Principal(subject="alice", tenant="halden", roles=frozenset({"user"})),
    "olga": Principal(subject="olga", tenant="halden", roles=frozenset({"user", "operator"})),
    "bram": Principal(subject="bram", tenant="brightwater", roles=frozenset({"user"})),
    "bo": Principal(subject="bo", tenant="brightwater", roles=frozenset({"user", "operator"})),
    "otto": Principal(subject="otto", tenant="halden", roles=frozenset({"auditor"})),
}
END_TOKEN = 1
"""What ends a turn of the tiny model."""


class ByName:
    """Takes a principal's name for its token."""

    def resolve(self, token: str) -> Principal:
        """Returns the principal of that name."""
        if token not in PRINCIPALS:
            raise Unauthenticated("unknown token")
        return PRINCIPALS[token]


def publish_random(
    files: Path, place: str, *, stable: bool = True, cipher: Cipher | None = None, **changes: Any
) -> Path:
    """Writes a signed adapter with random weights for the model in files/tiny, and returns its version's folder.

    `place` is <tenant>/<name>; `changes` are those of write_adapter.
    """
    tenant, name = place.split("/")
    base = weights_sha256(files / "tiny")
    with tempfile.TemporaryDirectory() as scratch:
        made = write_adapter(Path(scratch) / "made", **changes)
        return publish(
            files / "adapters", made, tenant=tenant, name=name, base_sha256=base, stable=stable, cipher=cipher
        )


def write_files(root: Path) -> Path:
    """Writes the tiny model and two tenants' adapters, of which three cannot be served, and returns the folder."""
    write_model(root / "tiny")
    publish_random(root, "halden/answers", seed=1)
    publish_random(root, "halden/reading", seed=2, cipher=CIPHER)
    publish_random(root, "brightwater/secret", seed=3)
    publish_random(root, "_shared/style", seed=4)
    publish_random(root, "halden/foreign", seed=5, width=40)
    pickled = publish_random(root, "halden/pickle", seed=6)
    for file in pickled.iterdir():
        file.unlink()
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    (publish_random(root, "halden/broken", seed=7) / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    return root


@dataclass
class Running:
    """Is a generator that serves; `stub` is alice's."""

    address: str
    telemetry: Telemetry
    stub: "pb_grpc.GeneratorServiceAsyncStub"

    def metric(self, name: str, **labels: str) -> float:
        """Returns a metric of the generator, 0 where it has not been set."""
        return self.telemetry.registry.get_sample_value(f"tandem_generator_{name}", labels) or 0.0

    async def until(self, name: str, value: float, *, prefix: str = "tandem_generator_") -> None:
        """Waits until a metric has a value."""
        for _ in range(6_000):
            if (self.telemetry.registry.get_sample_value(f"{prefix}{name}") or 0.0) == value:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"{name} was never {value}")

    def client(self, name: str) -> AsyncGeneratorClient:
        """Returns a client for a principal."""
        return AsyncGeneratorClient(self.address, token=name, timeout=300)

    async def generate(self, request: pb.GenerateRequest) -> pb.GenerateResponse:
        """Generates as alice."""
        return await self.stub.Generate(request)

    async def refusal(self, request: Any) -> TandemError:
        """Returns how a request of alice fails."""
        method = type(request).__name__.removesuffix("Request")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self.stub, method)(request)
        return from_rpc_error(caught.value)


@asynccontextmanager
async def running(config: GeneratorConfig) -> AsyncIterator[Running]:
    """Serves until the block ends."""
    telemetry = Telemetry(service="generator")
    app = await build(config, telemetry)
    async with serving(app, config, telemetry, authenticator=ByName()) as address:
        async with connect(address, token="alice", default_timeout_s=300) as channel:
            yield Running(address, telemetry, pb_grpc.GeneratorServiceStub(channel))
    telemetry.close()


def tiny(files: Path, **changes: object) -> GeneratorConfig:
    """Returns the settings for the model in files/tiny and the adapters in files/adapters, in fp32.

    Trusted is the key that signs adapters in tests, known the one that encrypts them.
    """
    if not (files / "keys.json").exists():
        TRUST.write(files / "trust.json")
        Keyring.of(CIPHER).write(files / "keys.json")
    config = GeneratorConfig(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        model=str(files / "tiny"),
        adapter_dir=files / "adapters",
        adapter_trust_files=(str(files / "trust.json"),),
        adapter_key_file=files / "keys.json",
        precision="fp32",
        threads=1,
        drain_seconds=0,
        kv_cache_tokens=4096,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def asking(text: str = "hello", *, adapter: str = "", tokens: bool = False, **sampling: object) -> pb.GenerateRequest:
    """Returns a request for 16 tokens, unless told otherwise."""
    return pb.GenerateRequest(
        text=text,
        adapter=adapter,
        sampling=pb.Sampling(**{"max_tokens": 16, **sampling}),  # type: ignore[arg-type]
        include_token_logprobs=tokens,
    )


def endless(text: str = "hello", *, adapter: str = "", max_tokens: int = 4096) -> pb.GenerateRequest:
    """Returns a request whose sequence cannot end its turn by itself."""
    never = pb.LogitBias(token_id=END_TOKEN, bias=-100)
    return asking(text, adapter=adapter, max_tokens=max_tokens, logit_bias=[never])
