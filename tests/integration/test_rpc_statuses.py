"""Failures of servicers and of callers become the statuses that the contracts promise, for every kind of RPC."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tandem import errors
from tandem.rpc.status import from_rpc_error
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceStub
from tests.fakes.rpc_hosting import peer
from tests.fakes.rpc_peer import EMBEDDER, GENERATOR, Script

SECRET = "policyholder Jane Roe"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
Call = Callable[[grpc.aio.Channel], Awaitable[object]]


async def unary_unary(channel: grpc.aio.Channel) -> object:
    return await EmbedderServiceStub(channel).Embed(embedder.EmbedRequest(texts=["a"]))


async def unary_stream(channel: grpc.aio.Channel) -> object:
    request = generator.StreamGenerateRequest(request=generator.GenerateRequest(text="a b"))
    return [event async for event in GeneratorServiceStub(channel).StreamGenerate(request)]


async def stream_stream(channel: grpc.aio.Channel) -> object:
    async def texts() -> AsyncIterator[embedder.StreamEmbedRequest]:
        yield embedder.StreamEmbedRequest(text="a")

    return [event async for event in EmbedderServiceStub(channel).StreamEmbed(texts())]


KINDS = pytest.mark.parametrize("kind", [unary_unary, unary_stream, stream_stream], ids=lambda kind: kind.__name__)


def raising(error: Exception, *, late: bool = False) -> Script:
    """A script that raises, in streams either at once or after the first event."""

    async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
        raise error

    async def stream_embed(requests: object) -> AsyncIterator[embedder.StreamEmbedResponse]:
        if late:
            yield embedder.StreamEmbedResponse(started=embedder.EmbedStarted())
        raise error

    async def stream_generate(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        if late:
            yield generator.StreamGenerateResponse(started=generator.GenerationStarted())
        raise error

    return Script(embed=embed, stream_embed=stream_embed, stream_generate=stream_generate)


async def failure(kind: Call, channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kind(channel)
    return caught.value


@KINDS
async def test_what_works_works(kind: Call) -> None:
    async with peer() as channel:
        assert await kind(channel)


@KINDS
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_a_failure_carries_its_rich_details(kind: Call, late: bool) -> None:
    error = errors.InvalidInput.of("texts[0]", "is too long")
    async with peer(raising(error, late=late)) as channel:
        got = await failure(kind, channel)
    rich = rpc_status.from_call(got)
    assert rich is not None
    assert (rich.code, rich.message) == (code_pb2.INVALID_ARGUMENT, "texts[0] is too long")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("INVALID_INPUT", "tandem")
    assert bad.field_violations[0].field == "texts[0]"


@pytest.mark.parametrize(
    "error",
    [
        errors.Unauthenticated("x"), errors.PermissionDenied("x"), errors.NotFound("x"), errors.AlreadyExists("x"),
        errors.FailedPrecondition("x"), errors.Overloaded("x", retry_after_s=1.5), errors.TooLarge("x"),
        errors.DeadlineExceeded("x"), errors.Cancelled("x"), errors.Unavailable("x", retry_after_s=0.25),
        errors.Unimplemented("x"), errors.DataLoss("x"), errors.NotFound("\ud800 é 😀\r\n\x00"),
        errors.NotFound("😀" * 5000, metadata={f"key{n}": "😀" * 500 for n in range(99)}),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_failure_arrives_as_it_was_raised(error: errors.TandemError) -> None:
    async with peer(raising(error)) as channel:
        got = from_rpc_error(await failure(unary_unary, channel))
    assert type(got) is type(error)
    assert got.reason == error.reason
    assert getattr(got, "retry_after_s", None) == getattr(error, "retry_after_s", None)
    if error.message == "x":
        assert got.message == "x"


@KINDS
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize(
    "bug", [ValueError(SECRET), KeyError(SECRET), TimeoutError(SECRET), StopAsyncIteration()], ids=repr
)
async def test_a_bug_is_internal_and_says_nothing(
    kind: Call, late: bool, bug: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer(raising(bug, late=late)) as channel:
        got = await failure(kind, channel)
    assert (got.code(), got.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert SECRET.encode() not in b"".join(value for _, value in got.trailing_metadata() if isinstance(value, bytes))
    assert "unhandled failure" in [line.message for line in caplog.records]


@KINDS
async def test_malformed_bytes_are_the_callers_fault(kind: Call, caplog: pytest.LogCaptureFixture) -> None:
    def raw(data: bytes) -> bytes:
        return data

    async def frames() -> AsyncIterator[bytes]:
        yield embedder.StreamEmbedRequest(text="fine").SerializeToString()
        yield b"\xff\xff\xff"

    async def send(channel: grpc.aio.Channel) -> object:
        if kind is unary_unary:
            return await channel.unary_unary(f"/{EMBEDDER}/Embed", raw, raw)(b"\xff\xff\xff")
        if kind is unary_stream:
            return [
                item async for item in channel.unary_stream(f"/{GENERATOR}/StreamGenerate", raw, raw)(b"\x0a\x01\xff")
            ]
        return [item async for item in channel.stream_stream(f"/{EMBEDDER}/StreamEmbed", raw, raw)(frames())]

    async with peer() as channel:
        got = await failure(send, channel)
    assert got.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(got).reason == "MALFORMED_MESSAGE"
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "path",
    ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", REFLECTION],
    ids=["check", "watch", "reflect"],
)
async def test_malformed_bytes_are_the_callers_fault_without_a_token_too(path: str) -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    async with peer(token=None) as channel:
        call = (
            channel.stream_stream(f"/{path}")(frames())
            if path is REFLECTION
            else channel.unary_stream(f"/{path}")(b"\xff")
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@KINDS
async def test_an_oversized_message_is_refused(kind: Call) -> None:
    big = "x" * 200_000

    async def texts() -> AsyncIterator[embedder.StreamEmbedRequest]:
        yield embedder.StreamEmbedRequest(text=big)

    async def send(channel: grpc.aio.Channel) -> object:
        if kind is unary_unary:
            return await EmbedderServiceStub(channel).Embed(embedder.EmbedRequest(texts=[big]))
        if kind is unary_stream:
            request = generator.StreamGenerateRequest(request=generator.GenerateRequest(text=big))
            return [event async for event in GeneratorServiceStub(channel).StreamGenerate(request)]
        return [event async for event in EmbedderServiceStub(channel).StreamEmbed(texts())]

    async with peer(max_message_bytes=65_536) as channel:
        got = await failure(send, channel)
        assert got.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(from_rpc_error(got), errors.TooLarge)
        assert await kind(channel)


async def test_an_answer_beyond_the_limit_is_an_error_and_not_a_hang() -> None:
    async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
        return embedder.EmbedResponse(embeddings=[embedder.Embedding(values=[1.0] * 50_000)])

    async with peer(Script(embed=embed), max_message_bytes=65_536) as channel:
        got = await failure(unary_unary, channel)
    assert got.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_unimplemented() -> None:
    async with peer() as channel:
        for path in (f"/{EMBEDDER}/Embark", "/tandem.v1.NoService/Embed"):
            got = await failure(lambda channel, path=path: channel.unary_unary(path)(b""), channel)
            assert got.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_too_many_calls_are_refused_while_health_answers() -> None:
    entered, release = asyncio.Semaphore(0), asyncio.Event()

    async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
        entered.release()
        await release.wait()
        return embedder.EmbedResponse()

    async with peer(Script(embed=embed), max_concurrent_rpcs=2) as channel:
        running = [asyncio.create_task(unary_unary(channel)) for _ in range(2)]
        for _ in running:
            await entered.acquire()
        refused = from_rpc_error(await failure(unary_unary, channel))
        assert isinstance(refused, errors.Overloaded)
        assert (refused.reason, refused.retry_after_s) == ("TOO_MANY_CALLS", 1.0)
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(service=EMBEDDER))).status == 1
        release.set()
        await asyncio.gather(*running)
        assert await unary_unary(channel) is not None


async def test_a_refusal_while_the_client_still_writes_is_never_internal() -> None:
    async def frames() -> AsyncIterator[embedder.StreamEmbedRequest]:
        for _ in range(500):
            yield embedder.StreamEmbedRequest(text="x" * 10_000)

    async with peer(raising(errors.PermissionDenied("no"))) as channel:
        for _ in range(20):
            call = EmbedderServiceStub(channel).StreamEmbed(frames())
            got = from_rpc_error(await failure(lambda _, call=call: call.read(), channel))
            assert isinstance(got, errors.PermissionDenied) or got.reason == "STREAM_ENDED_EARLY"
