"""A servicer on a scripted backend, and the requests that callers send it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from services.generator.domain import GenerateInput
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import Registry
from services.generator.servicer import GeneratorServicer, Parts
from tandem.errors import TandemError
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_adapters import FakeAdapters, place
from tests.fakes.generator_backend import FakeBackend
from tests.fakes.generator_registry import CHECK

ALICE = Principal("alice", "halden", roles=frozenset({"user"}))
OLGA = Principal("olga", "halden", roles=frozenset({"operator"}))


@dataclass
class Bench:
    """Is a servicer between a scripted backend and a registry of three adapters."""

    servicer: GeneratorServicer
    backend: FakeBackend
    registry: Registry
    folder: Path

    async def call(self, request: Any, principal: Principal = ALICE, *, left_s: float | None = None) -> Any:
        """Calls the method of that request, and returns its response or its events."""
        method = getattr(self.servicer, type(request).__name__.removesuffix("Request"))
        deadline = None if left_s is None else time.monotonic() + left_s
        with call.bind(principal=principal, deadline=deadline):
            outcome = method(request, cast(Any, None))
            if hasattr(outcome, "__aiter__"):
                return [event async for event in outcome]
            return await outcome

    async def refusal(self, request: Any, principal: Principal = ALICE) -> TandemError:
        """Returns how a request fails."""
        with pytest.raises(TandemError) as caught:
            await self.call(request, principal)
        return caught.value

    def asked(self) -> GenerateInput:
        """Returns the generation that the backend was asked for last."""
        request = self.backend.requests[-1]
        assert isinstance(request, GenerateInput)
        return request

    def num_pins(self) -> int:
        """Counts the sequences that pin an adapter."""
        return sum(shown.num_sequences for shown in self.registry.visible("halden"))


@asynccontextmanager
async def bench(tmp_path: Path, **backend: Any) -> AsyncIterator[Bench]:
    """Opens a servicer; checks at its end that no pin is left."""
    for name in ("answers", "reading"):
        place(tmp_path, name=name)
    place(tmp_path, tenant="_shared", name="style")
    registry = Registry(
        adapters=FakeAdapters(),
        check=CHECK,
        folder=tmp_path,
        max_adapters=8,
        metrics=GeneratorMetrics(CollectorRegistry()),
    )
    await registry.start()
    servicer, fake = GeneratorServicer(), FakeBackend(**backend)
    servicer.adopt(Parts(backend=fake, registry=registry, kind="torch"))
    made = Bench(servicer, fake, registry, tmp_path)
    yield made
    assert made.num_pins() == 0
    await registry.stop()


def said(*turns: tuple[str, str]) -> pb.ChatPrompt:
    """Returns a chat of these roles and contents."""
    return pb.ChatPrompt(messages=[pb.ChatMessage(role=role, content=content) for role, content in turns])


def text(**fields: Any) -> pb.GenerateRequest:
    """Returns a request for one text."""
    return pb.GenerateRequest(text="hello", **fields)


def sampled(**fields: Any) -> pb.GenerateRequest:
    """Returns a request with these settings of sampling."""
    return text(sampling=pb.Sampling(**fields))


def blended(*weights: float, mixing: int = 0, **fields: Any) -> pb.GenerateRequest:
    """Returns a blend of prompts of these weights."""
    prompts = [pb.BlendPrompt(text=f"prompt {index}", weight=weight) for index, weight in enumerate(weights)]
    return pb.GenerateRequest(blend=pb.Blend(prompts=prompts, mixing=cast(Any, mixing)), **fields)


def item(text: str = "a", continuation: str = "b") -> pb.ScoreItem:
    """Returns one text to score."""
    return pb.ScoreItem(text=text, continuation=continuation)
