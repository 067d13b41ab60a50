"""How often the router asks a peer that fails or is slow: once more at most, never while its breaker is open."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from services.router.backend import (
    BREAKER_OPEN,
    Breaker,
    Hedge,
    PeerEmbedder,
    PeerGenerator,
    PeerLikelihoodScorer,
    PeerPairClassifier,
    PeerRetriever,
    PeerTextEmbedder,
)
from services.router.domain.grounding import Continuation
from services.router.metrics import RouterMetrics
from tandem import errors
from tandem.rpc.channel import connect
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1 import retriever_service_pb2 as retriever
from tests.fakes.rpc_canned import Canned
from tests.fakes.rpc_hosting import hosted

DOWN = errors.Unavailable("loading")
VECTORS = embedder.EmbedResponse(embeddings=[embedder.Embedding(values=[1.0])])
STARTED = generator.StreamGenerateResponse(started=generator.GenerationStarted())
Call = Callable[[grpc.aio.Channel, Breaker], Awaitable[object]]


async def generate(channel: grpc.aio.Channel, breaker: Breaker) -> list[object]:
    events = PeerGenerator(channel, breaker).generate([], adapter="", max_tokens=4, timeout_s=9.0)
    return [event async for event in events]


CALLS: dict[str, tuple[str, Message, Call]] = {
    "embed": ("Embed", VECTORS, lambda c, b: PeerEmbedder(c, b, hedge()).embed("x", timeout_s=9.0)),
    "embed texts": ("Embed", VECTORS, lambda c, b: PeerTextEmbedder(c, b).embed_texts(["x"], timeout_s=9.0)),
    "classify pairs": (
        "ClassifyPairs",
        embedder.ClassifyPairsResponse(),
        lambda c, b: PeerPairClassifier(c, b).classify_pairs([("x", "y")], timeout_s=9.0),
    ),
    "search": (
        "Search",
        retriever.SearchResponse(),
        lambda c, b: PeerRetriever(c, b, hedge()).search("x", vector=None, top_k=1, as_of=None, timeout_s=9.0),
    ),
    "adapters": (
        "ListAdapters",
        generator.ListAdaptersResponse(),
        lambda c, b: PeerGenerator(c, b).adapters(timeout_s=9.0),
    ),
    "score": (
        "Score",
        generator.ScoreResponse(),
        lambda c, b: PeerLikelihoodScorer(c, b).score([Continuation([], "x")], timeout_s=9.0),
    ),
}
EVERY_CALL = pytest.mark.parametrize(("method", "answer", "call"), CALLS.values(), ids=CALLS)


@asynccontextmanager
async def peer(canned: Canned) -> AsyncIterator[grpc.aio.Channel]:
    async with hosted(canned.app()) as address, connect(address, token="alice-token") as channel:
        yield channel


def hedge(after_s: float = 0.0) -> Hedge:
    return Hedge("peer", after_s=after_s, metrics=RouterMetrics(CollectorRegistry()))


def breaker(max_failures: int = 5) -> Breaker:
    return Breaker("peer", max_failures=max_failures, open_s=60.0, metrics=RouterMetrics(CollectorRegistry()))


@EVERY_CALL
async def test_what_may_be_done_twice_is_asked_once_more(method: str, answer: Message, call: Call):
    canned = Canned(**{method: [DOWN, answer]})
    async with peer(canned) as channel:
        await call(channel, breaker())
    assert len(canned.asked[method]) == 2


@EVERY_CALL
async def test_and_then_not_again(method: str, answer: Message, call: Call):
    canned = Canned(**{method: DOWN})
    async with peer(canned) as channel:
        with pytest.raises(errors.Unavailable):
            await call(channel, breaker())
    assert len(canned.asked[method]) == 2


@EVERY_CALL
async def test_a_refusal_is_final(method: str, answer: Message, call: Call):
    canned = Canned(**{method: errors.Overloaded("full", retry_after_s=1.0)})
    async with peer(canned) as channel:
        with pytest.raises(errors.Overloaded):
            await call(channel, breaker())
    assert len(canned.asked[method]) == 1


@EVERY_CALL
async def test_a_peer_that_is_left_alone_is_not_asked(method: str, answer: Message, call: Call):
    canned, once = Canned(**{method: [DOWN, DOWN]}), breaker(max_failures=1)
    async with peer(canned) as channel:
        with pytest.raises(errors.Unavailable):
            await call(channel, once)
        with pytest.raises(errors.Unavailable) as caught:
            await call(channel, once)
    assert caught.value.reason == BREAKER_OPEN
    assert len(canned.asked[method]) == 2


async def test_a_text_of_which_nothing_has_come_is_asked_for_once_more():
    canned = Canned(StreamGenerate=DOWN)
    async with peer(canned) as channel:
        with pytest.raises(errors.Unavailable):
            await generate(channel, breaker())
    assert len(canned.asked["StreamGenerate"]) == 2


async def test_a_text_that_has_begun_is_not_asked_for_again_and_breaking_off_counts():
    canned, once = Canned(StreamGenerate=[STARTED, DOWN]), breaker(max_failures=1)
    async with peer(canned) as channel:
        with pytest.raises(errors.Unavailable):
            await generate(channel, once)
    assert len(canned.asked["StreamGenerate"]) == 1
    assert once.state == "open"


async def test_a_peer_that_keeps_failing_is_no_longer_asked_twice():
    canned, patient = Canned(Embed=DOWN), breaker(max_failures=1000)
    async with peer(canned) as channel:
        for _ in range(20):
            with pytest.raises(errors.Unavailable):
                await PeerEmbedder(channel, patient, hedge()).embed("x", timeout_s=9.0)
    assert 20 < len(canned.asked["Embed"]) < 26


class _Silent(Canned):
    def __init__(self, **answers: Message) -> None:
        super().__init__(**answers)
        self.arrived: asyncio.Queue[str] = asyncio.Queue()

    async def _keep(self, method: str, request: object) -> None:
        self.arrived.put_nowait(method)
        await asyncio.Event().wait()


@pytest.mark.parametrize("margin", [1.0, 0.0], ids=["by its own deadline", "by the stage around it"])
async def test_silence_until_the_deadline_opens_it(margin: float):
    once = breaker(max_failures=1)
    async with peer(_Silent(Embed=VECTORS)) as channel:
        await channel.channel_ready()
        with pytest.raises((errors.DeadlineExceeded, TimeoutError)):
            async with asyncio.timeout(0.3 + margin):
                await PeerEmbedder(channel, once, hedge()).embed("x", timeout_s=0.3)
    assert once.state == "open"


async def test_a_caller_who_leaves_opens_nothing():
    silent, once = _Silent(Embed=VECTORS, StreamGenerate=STARTED), breaker(max_failures=1)
    async with peer(silent) as channel:
        calls = (PeerEmbedder(channel, once, hedge()).embed("x", timeout_s=20.0), generate(channel, once))
        waiting = [asyncio.create_task(call) for call in calls]
        assert {await silent.arrived.get(), await silent.arrived.get()} == {"Embed", "StreamGenerate"}
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    assert once.state == "closed"


class _Replica(Canned):
    """Answers at once, or never while it is stuck."""

    def __init__(self) -> None:
        super().__init__(Search=retriever.SearchResponse())
        self.stuck = False
        self.left = asyncio.Event()

    async def _keep(self, method: str, request: object) -> None:
        self.asked[method].append(request)
        try:
            if self.stuck:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.set()
            raise


async def test_what_a_replica_is_slow_to_answer_another_one_answers():
    one, other = _Replica(), _Replica()
    async with hosted(one.app()) as here, hosted(other.app()) as there:
        async with connect(f"ipv4:{here},{there}", token="alice-token") as channel:
            asking = PeerRetriever(channel, breaker(), hedge(after_s=0.2))

            async def search() -> None:
                await asking.search("x", vector=None, top_k=1, as_of=None, timeout_s=60.0)

            while not (len(one.asked["Search"]) > 9 and len(other.asked["Search"]) > 9):
                await search()
            one.stuck = True
            before = len(one.asked["Search"])
            while len(one.asked["Search"]) == before:
                await search()
            async with asyncio.timeout(60):
                await one.left.wait()
