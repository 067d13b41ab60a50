"""Deadlines shrink on the way, and a caller that leaves takes its work with it."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from tandem import errors
from tandem.rpc import call
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceStub
from tests.fakes.rpc_hosting import hosted, peer
from tests.fakes.rpc_peer import ALICE, Script

REQUEST = embedder.EmbedRequest(texts=["a"])


class Clock:
    """Records what was left when a call arrived."""

    def __init__(self) -> None:
        self.left: list[float | None] = []
        self.callers: list[Principal] = []

    async def embed(self, request: object) -> embedder.EmbedResponse:
        self.left.append(call.remaining())
        self.callers.append(call.principal())
        return embedder.EmbedResponse()


async def test_a_call_without_a_deadline_gets_the_default() -> None:
    clock = Clock()
    async with hosted(Script(embed=clock.embed), default_deadline_seconds=7) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            await EmbedderServiceStub(channel).Embed(REQUEST, metadata=[("authorization", "Bearer alice-token")])
    assert clock.left[0] is not None
    assert 0 < clock.left[0] <= 7


async def test_a_deadline_is_cut_to_the_longest() -> None:
    clock = Clock()
    async with peer(Script(embed=clock.embed), max_deadline_seconds=9, default_deadline_seconds=5) as channel:
        await EmbedderServiceStub(channel).Embed(REQUEST, timeout=5000)
        await EmbedderServiceStub(channel).Embed(REQUEST, timeout=8)
    # gRPC writes a deadline in steps of 10 ms up to ten seconds, rounded up.
    assert all(left is not None and 5 < left <= limit + 0.05 for left, limit in zip(clock.left, (9, 8), strict=True))


async def test_the_server_ends_what_takes_too_long() -> None:
    ended = asyncio.Event()

    async def embed(request: object) -> embedder.EmbedResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        yield generator.StreamGenerateResponse(started=generator.GenerationStarted())
        await asyncio.Event().wait()

    script = Script(embed=embed, stream_generate=stream)
    async with peer(script, max_deadline_seconds=0.2, default_deadline_seconds=0.1) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbedderServiceStub(channel).Embed(REQUEST, timeout=60)
        assert isinstance(from_rpc_error(caught.value), errors.DeadlineExceeded)
        assert ended.is_set()
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        assert (await running.read()).HasField("started")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.read()
        assert isinstance(from_rpc_error(caught.value), errors.DeadlineExceeded)


async def test_a_servicers_own_timeout_is_not_taken_for_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    async def embed(request: object) -> embedder.EmbedResponse:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        raise AssertionError

    async with peer(Script(embed=embed)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbedderServiceStub(channel).Embed(REQUEST)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_two_hops_hand_down_what_is_left_and_who_asked() -> None:
    far = Clock()
    async with hosted(Script(embed=far.embed)) as far_address:
        async with connect(far_address, token="router-token", forward_principal=True) as onward:

            async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
                left = call.remaining()
                await asyncio.sleep(0.3)
                await EmbedderServiceStub(onward).Embed(request, timeout=3000)
                far.left.append(left)
                return embedder.EmbedResponse()

            async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
                await EmbedderServiceStub(onward).Embed(REQUEST, timeout=1.0)
                yield generator.StreamGenerateResponse()

            async with peer(Script(embed=embed, stream_generate=stream)) as channel:
                await EmbedderServiceStub(channel).Embed(REQUEST, timeout=9)
                call_ = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest(), timeout=15)
                assert len([event async for event in call_]) == 1
    second_hop, first_hop, short = far.left
    assert second_hop is not None
    assert first_hop is not None
    assert short is not None
    assert second_hop <= first_hop - 0.2
    assert short <= 1.05
    assert far.callers == [ALICE, ALICE]


async def test_a_deadline_that_passed_leaves_next_to_nothing() -> None:
    far = Clock()
    async with hosted(Script(embed=far.embed)) as address:
        async with connect(address, token="alice-token") as channel:
            with call.bind(deadline=0.0), contextlib.suppress(grpc.aio.AioRpcError):
                await EmbedderServiceStub(channel).Embed(REQUEST)
    # A call that arrives after the deadline has 0 left; one that never arrives leaves no entry.
    assert all(left is not None and 0 <= left <= 0.05 for left in far.left)


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "writing"])
async def test_cancelling_a_stream_closes_the_servicers_generator_in_its_task(
    waiting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    closed: asyncio.Future[tuple[bool, bool]] = asyncio.get_running_loop().create_future()
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark")

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        task, token = asyncio.current_task(), mark.set("set")
        try:
            yield generator.StreamGenerateResponse(started=generator.GenerationStarted())
            while True:
                await (asyncio.Event().wait() if waiting else asyncio.sleep(0))
                yield generator.StreamGenerateResponse(delta=generator.GenerationDelta(text="x" * 1000))
        finally:
            mark.reset(token)  # raises in any other context
            closed.set_result((asyncio.current_task() is task, call.principal() == ALICE))

    async with peer(Script(stream_generate=stream)) as channel:
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        await running.read()
        running.cancel()
        assert await asyncio.wait_for(closed, 20) == (True, True)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING], caplog.text


async def test_cancelling_a_stream_of_requests_ends_both_directions(caplog: pytest.LogCaptureFixture) -> None:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stream(requests: AsyncIterator[object]) -> AsyncIterator[embedder.StreamEmbedResponse]:
        try:
            async for _ in requests:
                yield embedder.StreamEmbedResponse(embedding=embedder.Embedding())
        finally:
            closed.set_result(None)

    async with peer(Script(stream_embed=stream)) as channel:
        running = EmbedderServiceStub(channel).StreamEmbed()
        await running.write(embedder.StreamEmbedRequest(text="a"))
        await running.read()
        running.cancel()
        await asyncio.wait_for(closed, 20)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING], caplog.text


async def test_cancelling_a_unary_call_reaches_the_servicer() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def embed(request: object) -> embedder.EmbedResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    async with peer(Script(embed=embed)) as channel:
        running = EmbedderServiceStub(channel).Embed(REQUEST)
        waiting = asyncio.ensure_future(running)
        await entered.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(left.wait(), 20)


async def test_cancelling_travels_through_two_hops() -> None:
    left = asyncio.Event()

    async def far(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        try:
            yield generator.StreamGenerateResponse()
            await asyncio.Event().wait()
        finally:
            left.set()

    async with hosted(Script(stream_generate=far)) as address:
        async with connect(address, token="router-token", forward_principal=True) as onward:

            async def near(request: generator.StreamGenerateRequest) -> AsyncIterator[generator.StreamGenerateResponse]:
                async for event in GeneratorServiceStub(onward).StreamGenerate(request):
                    yield event

            async with peer(Script(stream_generate=near)) as channel:
                running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
                await running.read()
                running.cancel()
                await asyncio.wait_for(left.wait(), 20)


async def test_a_reader_that_stops_early_closes_the_generator() -> None:
    left = asyncio.Event()

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        try:
            while True:
                yield generator.StreamGenerateResponse(delta=generator.GenerationDelta(text="x" * 10_000))
        finally:
            left.set()

    async with peer(Script(stream_generate=stream)) as channel:
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        await running.read()
        await channel.close()
        await asyncio.wait_for(left.wait(), 20)
