"""Every policy while peers are dead, full or silent, over real gRPC; and what they do when the peers are back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from services.router.domain import Generated, Piece
from tandem import errors
from tandem.client import AsyncRouterClient
from tandem.prompts import Message
from tandem.v1 import router_service_pb2
from tests.fakes.router import NEVER, PASSAGES, FakeGenerator, Script, World, Written
from tests.fakes.router_mortal import MortalWorld, mortal

Answer = router_service_pb2.Answer
QUESTION = "What is the excess for collision?"
BY_HEART, READ, QUOTED = "Five hundred, I believe.", "The excess for collision is EUR 500.", PASSAGES[0].text
NONE = "no answer"
POLICIES = ("auto", "cascade", "dual", "ensemble", "finetuned", "rag")
ALL_DOWN = dict.fromkeys(POLICIES, (NONE, ""))

# What each policy gives, and the part that it names as missing, "" where it needs none of the missing.
MATRIX: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {
    ("embedder",): {
        "finetuned": (BY_HEART, ""),
        **dict.fromkeys(("auto", "cascade", "dual", "ensemble", "rag"), (READ, "embedder")),
    },
    ("retriever",): {
        "finetuned": (BY_HEART, ""),
        **dict.fromkeys(("auto", "cascade", "dual", "ensemble"), (BY_HEART, "retriever")),
        "rag": (NONE, "retriever"),
    },
    ("generator",): {
        "finetuned": (NONE, "generator"),
        **dict.fromkeys(("auto", "cascade", "dual", "ensemble", "rag"), (QUOTED, "generator")),
    },
    ("retriever", "generator"): ALL_DOWN,
}


def unsure() -> World:
    """Returns a world whose adapter is never sure enough, so that every policy asks for evidence."""
    world = World()
    world.generator.sequences["answers"] = Written(text=BY_HEART, mean_logprob=-2.0)
    return world


@asynccontextmanager
async def asking(folder: Path, world: World, **config: object) -> AsyncIterator[tuple[MortalWorld, AsyncRouterClient]]:
    async with mortal(world, folder, **config) as running, AsyncRouterClient(running.address, token="alice") as client:
        yield running, client


async def ask(client: AsyncRouterClient, policy: str, *, timeout: float = 20.0) -> Answer:
    return await client.ask(QUESTION, policy=policy, timeout=timeout)


def missing_parts(answer: Answer) -> set[str]:
    return {note.component for note in answer.degraded}


def told(answer: Answer, part: str) -> bool:
    """Tells whether the answer names the part as degraded, and some step says why."""
    return part in missing_parts(answer) and any(part in step.reason for step in answer.decision.steps)


async def check(
    client: AsyncRouterClient, missing: tuple[str, ...], refusals: type | tuple[type, ...], timeout: float
) -> None:
    answers = await asyncio.gather(
        *(ask(client, policy, timeout=timeout) for policy in POLICIES), return_exceptions=True
    )
    for policy, answer in zip(POLICIES, answers, strict=True):
        text, part = MATRIX[missing][policy]
        if text == NONE:
            assert isinstance(answer, refusals), (policy, answer)
            # A part that takes the whole deadline of an answer that has no other path is not always the one named.
            assert not part or part in str(answer) or isinstance(answer, errors.DeadlineExceeded), (policy, answer)
            continue
        assert isinstance(answer, Answer), (policy, answer)
        assert answer.text == text, policy
        assert not answer.abstained
        assert told(answer, part) if part else not missing_parts(answer), (policy, answer.degraded, answer.decision)
        assert bool(answer.citations) == (text != BY_HEART), policy


@pytest.mark.parametrize("missing", MATRIX, ids=" and ".join)
async def test_peers_that_are_dead(tmp_path: Path, missing: tuple[str, ...]):
    async with asking(tmp_path, unsure()) as (running, client):
        await running.kill(*missing)
        # Once while each call still finds nobody, and once while breakers answer in their place.
        for _ in range(2):
            await check(client, missing, errors.Unavailable, 20.0)


def script(world: World, missing: tuple[str, ...], *, error: errors.TandemError | None, delay_s: float = 0.0) -> None:
    generator = world.generator
    parts: dict[str, list[Script]] = {
        "embedder": [world.embedder],
        "retriever": [world.retriever],
        "generator": [generator.listing, *generator.sequences.values()],
    }
    for part in missing:
        for one in parts[part]:
            one.error, one.delay_s = error, delay_s


@pytest.mark.parametrize("missing", MATRIX, ids=" and ".join)
async def test_peers_that_refuse_because_they_are_full(tmp_path: Path, missing: tuple[str, ...]):
    async with asking(tmp_path, unsure()) as (running, client):
        script(running.world, missing, error=errors.Overloaded("full", retry_after_s=7.0))
        for _ in range(2):
            await check(client, missing, errors.Overloaded, 20.0)
        assert [running.breaker(part) for part in missing] == [0] * len(missing)


@pytest.mark.parametrize("missing", MATRIX, ids=" and ".join)
async def test_peers_that_say_nothing(tmp_path: Path, missing: tuple[str, ...]):
    async with asking(tmp_path, unsure()) as (running, client):
        script(running.world, missing, error=None, delay_s=NEVER)
        await check(client, missing, (errors.Unavailable, errors.DeadlineExceeded), 2.0)
        await check(client, missing, (errors.Unavailable, errors.DeadlineExceeded), 2.0)


async def test_a_silent_peer_is_left_alone_and_everybody_else_answers_at_once(tmp_path: Path):
    world = unsure()
    async with asking(tmp_path, world, breaker_failures=2) as (running, client):
        world.embedder.delay_s = NEVER
        for _ in range(2):
            assert told(await ask(client, "rag", timeout=2.0), "embedder")
        assert running.breaker("embedder") == 2
        asked = len(world.embedder.texts)
        answers = await asyncio.gather(*(ask(client, "rag") for _ in range(8)))
    assert len(world.embedder.texts) == asked
    for answer in answers:
        assert answer.text == READ
        assert told(answer, "embedder")
        assert any("not asked for now" in step.reason for step in answer.decision.steps)


class Elapsing:
    """Is the breakers' clock, which a test sets forward."""

    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.mark.parametrize("part", ["embedder", "retriever", "generator"])
async def test_a_peer_that_comes_back_is_asked_again_after_the_breakers_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
):
    clock = Elapsing(asyncio.get_running_loop().time)
    monkeypatch.setattr("circuitbreaker.monotonic", clock)
    async with asking(tmp_path, unsure(), breaker_failures=2, breaker_seconds=600.0) as (running, client):
        assert not missing_parts(await ask(client, "cascade"))
        await running.kill(part)
        for _ in range(2):
            assert told(await ask(client, "cascade"), part)
        assert running.breaker(part) == 2
        await running.peers[part].rise()
        assert told(await ask(client, "cascade"), part)
        # The channel finds the new server within about a second; a trial before that opens the breaker again.
        async with asyncio.timeout(20):
            while True:
                clock.ahead += 600.0
                answer = await ask(client, "cascade")
                if not missing_parts(answer):
                    break
        assert answer.text == READ
        assert running.breaker(part) == 0


class Stalling(FakeGenerator):
    """Writes its text and then never ends."""

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        written = super().generate(messages, adapter=adapter, max_tokens=max_tokens, timeout_s=timeout_s)
        async with aclosing(written) as events:
            async for event in events:
                if isinstance(event, Generated) and adapter == "reading":
                    await asyncio.Event().wait()
                yield event


@pytest.mark.parametrize("policy", ["cascade", "rag"])
async def test_a_generator_that_dies_while_it_writes_leaves_a_quotation(tmp_path: Path, policy: str):
    world = unsure()
    world.generator = Stalling(sequences=world.generator.sequences)
    kinds = router_service_pb2.DecisionStep
    standing, killed, answer = "", False, None
    async with asking(tmp_path, world) as (running, client):
        async for event in client.stream(QUESTION, policy=policy, timeout=20.0):
            if event.HasField("delta"):
                standing += event.delta.text
            elif event.HasField("decision") and event.decision.kind in (kinds.KIND_ESCALATE, kinds.KIND_FALL_BACK):
                standing = ""
            elif event.HasField("finished"):
                answer = event.finished.answer
            if standing.strip() and READ.startswith(standing.strip()) and not killed:
                killed = True
                await running.kill("generator")
    assert killed
    assert answer is not None
    assert answer.text == QUOTED == standing.strip()
    assert told(answer, "generator")
