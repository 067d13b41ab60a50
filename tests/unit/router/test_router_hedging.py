"""When a call is sent once more, which of the two answers counts, and how many are sent at most."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.router.backend import Hedge
from services.router.metrics import RouterMetrics

SOON_S, LATE_S = 0.01, 60.0


class Peer:
    """Answers a test's calls one after the other, each by its script, and counts those that were cancelled."""

    def __init__(self, *, after_s: float = SOON_S, calls_before: int = 100) -> None:
        self.registry = CollectorRegistry()
        self.hedge = Hedge("retriever", after_s=after_s, metrics=RouterMetrics(self.registry))
        self.timeouts: list[float] = []
        self.cancelled = 0
        self._script: Iterator[Callable[[], Awaitable[str]]] = iter(())
        self._calls_before = calls_before

    async def ask(self, *script: Callable[[], Awaitable[str]]) -> str:
        for _ in range(self._calls_before):
            self._script = iter([says("before")])
            await self.hedge.first(self._call, LATE_S)
        self._calls_before = 0
        self.timeouts.clear()
        self._script = iter(script)
        return await self.hedge.first(self._call, LATE_S)

    async def _call(self, timeout_s: float) -> str:
        self.timeouts.append(timeout_s)
        try:
            return await next(self._script)()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @property
    def hedges(self) -> float | None:
        return self.registry.get_sample_value("tandem_router_hedges_total", {"component": "retriever"})


def says(text: str, *, after: asyncio.Event | None = None) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        if after is not None:
            await after.wait()
        return text

    return answer


def fails(code: grpc.StatusCode, *, after: asyncio.Event | None = None) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        if after is not None:
            await after.wait()
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())

    return answer


def sets(event: asyncio.Event, then: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        event.set()
        return await then()

    return answer


def never() -> Callable[[], Awaitable[str]]:
    return says("", after=asyncio.Event())


async def test_a_quick_call_is_sent_once():
    peer = Peer(after_s=LATE_S / 2)
    assert await peer.ask(says("first")) == "first"
    assert (peer.timeouts, peer.hedges) == ([LATE_S], 0)


async def test_the_answer_to_the_second_call_counts_and_the_first_is_cancelled():
    peer = Peer()
    assert await peer.ask(never(), says("second")) == "second"
    assert (peer.timeouts, peer.hedges, peer.cancelled) == ([LATE_S, LATE_S - SOON_S], 1, 1)


async def test_the_answer_to_the_first_call_counts_where_it_comes_before():
    peer, sent = Peer(), asyncio.Event()
    assert await peer.ask(says("first", after=sent), sets(sent, never())) == "first"
    assert (peer.hedges, peer.cancelled) == (1, 1)


@pytest.mark.parametrize("after_s", [0.0, LATE_S])
async def test_without_a_time_or_with_one_beyond_the_deadline_nothing_is_sent_twice(after_s: float):
    peer = Peer(after_s=after_s)
    assert await peer.ask(says("first")) == "first"
    assert peer.hedges == 0


async def test_a_peer_out_of_reach_leaves_it_to_the_other_call():
    peer, sent, failed = Peer(), asyncio.Event(), asyncio.Event()
    first = sets(failed, fails(grpc.StatusCode.UNAVAILABLE, after=sent))
    # The second call answers some turns of the loop after the first has failed.
    assert await peer.ask(first, sets(sent, says("second", after=failed))) == "second"


async def test_where_neither_is_in_reach_that_is_told():
    peer, sent = Peer(), asyncio.Event()
    with pytest.raises(grpc.RpcError):
        await peer.ask(fails(grpc.StatusCode.UNAVAILABLE, after=sent), sets(sent, fails(grpc.StatusCode.UNAVAILABLE)))
    assert peer.hedges == 1


async def test_a_refusal_is_final():
    peer, sent = Peer(), asyncio.Event()
    with pytest.raises(grpc.RpcError):
        await peer.ask(fails(grpc.StatusCode.PERMISSION_DENIED, after=sent), sets(sent, never()))
    assert peer.cancelled == 1


async def test_where_everything_is_slow_a_tenth_is_sent_twice():
    peer, open_ = Peer(calls_before=0), asyncio.Event()

    async def slow(timeout_s: float) -> str:
        peer.timeouts.append(timeout_s)
        await open_.wait()
        return ""

    asked = [asyncio.create_task(peer.hedge.first(slow, LATE_S)) for _ in range(200)]
    await asyncio.sleep(20 * SOON_S)
    open_.set()
    await asyncio.gather(*asked)
    assert peer.hedges is not None
    assert 0 < peer.hedges <= 20
    assert len(peer.timeouts) == 200 + peer.hedges


async def test_a_caller_who_leaves_cancels_both():
    peer, sent = Peer(), asyncio.Event()
    waiting = asyncio.create_task(peer.ask(never(), sets(sent, never())))
    await sent.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert peer.cancelled == 2
