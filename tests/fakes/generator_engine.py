"""An engine on the toy model: its metrics and spans at hand, callers' requests, and pins that are counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.generator.domain import (
    Adapter,
    Delta,
    Finished,
    GenerateInput,
    Limits,
    ModelInfo,
    Pin,
    Priority,
    Sampling,
    Step,
    StepResult,
    StreamInput,
)
from services.generator.engine import Engine
from services.generator.metrics import GeneratorMetrics
from tests.fakes.generator import ByteTokenizer, ToyRunner

MODEL = ModelInfo(name="fake", sha256="0" * 64, max_context_tokens=100, precision="float32", vocabulary_size=257)


class Bench:
    """Is an engine whose metrics, spans and failures can be read."""

    def __init__(self, runner: ToyRunner, limits: Limits, **extras: Any) -> None:
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.runner = runner
        self.failures = 0
        self.engine = Engine(
            runner=runner,
            tokenizer=extras.pop("tokenizer", ByteTokenizer()),
            model=MODEL,
            limits=limits,
            metrics=GeneratorMetrics(self.registry),
            tracer=provider.get_tracer("test"),
            on_failure=self._failed,
            **extras,
        )

    def _failed(self) -> None:
        self.failures += 1

    def value(self, name: str, **labels: str) -> float:
        """Returns a metric of the engine, 0 where it has not been set."""
        return self.registry.get_sample_value(f"tandem_generator_{name}", labels) or 0.0

    async def waiting(self, count: int) -> None:
        """Waits until so many sequences wait."""
        for _ in range(10_000):
            if self.value("waiting_sequences") >= count:
                return
            await asyncio.sleep(0.001)
        raise TimeoutError(f"there were never {count} sequences waiting")

    async def entered(self) -> None:
        """Waits until a gated runner has begun a step."""
        await asyncio.to_thread(self.runner.entered.acquire)

    def clean(self) -> None:
        """Checks that nothing is left of anyone; to be asked after the last step."""
        assert self.runner.complaints == []
        assert self.runner.streams == set()
        assert self.value("kv_blocks", state="used") == 0
        assert self.value("running_sequences") == self.value("waiting_sequences") == 0


@asynccontextmanager
async def running(runner: ToyRunner | None = None, **options: Any) -> AsyncIterator[Bench]:
    """Runs an engine, by default on an ungated toy model; checks after its stop that nothing is left."""
    extras = {key: options.pop(key) for key in ("features", "tokenizer") if key in options}
    bench = Bench(runner or ToyRunner(), Limits(**options), **extras)
    await bench.engine.start()
    try:
        yield bench
    finally:
        bench.runner.allow(10_000)
        await bench.engine.stop()
        bench.clean()


def ask(
    *prompts: str,
    pins: tuple[Pin | None, ...] = (),
    deadline: float | None = None,
    tenant: str = "t",
    priority: Priority = Priority.INTERACTIVE,
    num_alternatives: int = 0,
    **sampling: Any,
) -> GenerateInput:
    """Returns a request; several prompts are a blend of equal weights."""
    prompts = prompts or ("hi",)
    streams = tuple(
        StreamInput(prompt=prompt, pin=pin, weight=1 / len(prompts))
        for prompt, pin in zip(prompts, pins or (None,) * len(prompts), strict=True)
    )
    return GenerateInput(
        streams=streams,
        tenant=tenant,
        deadline=deadline,
        priority=priority,
        num_alternatives=num_alternatives,
        sampling=Sampling(**sampling),
    )


def said(text: str) -> ToyRunner:
    """Returns a runner that answers every prompt with the text."""
    return ToyRunner(reply=lambda prompt: text)


class Pins:
    """Hands out pins and counts their releases."""

    def __init__(self) -> None:
        self.made = 0
        self.released: list[str] = []
        self.held: set[str] = set()
        """Keys that may be run on."""

    def pin(self, name: str = "law") -> Pin:
        """Returns a pin on an adapter of that name."""
        adapter = Adapter(tenant="t", name=name, sha256="f" * 64, rank=2, scale=1.0, num_parameters=1, read=bytes)
        self.made += 1
        self.held.add(adapter.key)
        return Pin(adapter, lambda: self._release(adapter))

    def _release(self, adapter: Adapter) -> None:
        self.released.append(adapter.name)
        self.held.discard(adapter.key)


class Watchful(ToyRunner):
    """Complains about steps on adapters whose pins are gone, before or after."""

    pins: Pins

    def run(self, step: Step) -> StepResult:
        """Computes the step."""
        try:
            return super().run(step)
        finally:
            if any(work.adapter is not None and work.adapter not in self.pins.held for work in step.works):
                self.complaints.append("a step ran on an adapter that may be gone")


async def text_of(engine: Engine, request: GenerateInput) -> tuple[str, Finished]:
    """Returns the whole text of a generation, and its last event."""
    text = ""
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            if isinstance(event, Finished):
                return text + event.tail, event
    raise AssertionError("no last event")


async def tokens_of(engine: Engine, request: GenerateInput) -> list[int]:
    """Returns the tokens of a generation."""
    return [event.token.token_id async for event in engine.generate(request) if isinstance(event, Delta)]


async def tokens_of_when_allowed(bench: Bench) -> None:
    """Lets a gated runner go on, through a generation of two tokens."""
    bench.runner.allow(100)
    await tokens_of(bench.engine, ask("another", max_tokens=2))
