"""The backend openai on a scripted server, and what tests ask of it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend.openai import OpenAiBackend, connect
from services.generator.config import GeneratorConfig
from services.generator.domain import Adapter, Delta, Event, Finished, GenerateInput, Pin, Sampling, StreamInput
from services.generator.metrics import GeneratorMetrics
from tests.fakes.openai_server import OpenAiServer, end, serving, word

GOOD = (word("Good"), word(" day"), end())


@asynccontextmanager
async def connected(server: OpenAiServer, **settings: object) -> AsyncIterator[OpenAiBackend]:
    """Runs a backend on the server until the block ends."""
    async with serving(server):
        config = GeneratorConfig(openai_url=server.url, **settings)  # type: ignore[arg-type]
        backend = await connect(config, metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer())
        await backend.start()
        try:
            yield backend
        finally:
            await backend.stop()


def request(
    prompt: object = "Hello", *, deadline_s: float | None = None, tenant: str = "a", **sampling: object
) -> GenerateInput:
    """Returns a request for one sequence with one alternative for each token."""
    return GenerateInput(
        streams=(StreamInput(prompt=prompt),),  # type: ignore[arg-type]
        tenant=tenant,
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        num_alternatives=1,
        deadline=None if deadline_s is None else time.monotonic() + deadline_s,
    )


async def events(backend: OpenAiBackend, asked: GenerateInput) -> list[Event]:
    """Returns all events of a generation."""
    return [event async for event in backend.generate(asked)]


def text(told: list[Event]) -> str:
    """Returns the whole text of a finished generation."""
    finished = told[-1]
    assert isinstance(finished, Finished)
    return "".join(event.text for event in told if isinstance(event, Delta)) + finished.tail


def pin(released: list[str]) -> Pin:
    """Returns a pin that notes its release."""
    adapter = Adapter(tenant="a", name="n", sha256="s", rank=1, scale=1.0, num_parameters=1, read=bytes)
    return Pin(adapter, lambda: released.append("n"))
