"""Who asks is proven by a token, and only a service may speak for another."""

from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem import errors
from tandem.rpc import call
from tandem.rpc.channel import connect, connect_sync
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceStub
from tests.fakes.rpc_hosting import hosted
from tests.fakes.rpc_peer import ALICE, ROUTER, TOKENS, Script

BRAM = Principal("bram", "brightwater", frozenset({"ä \U0001f600"}), frozenset({"user"}))
REQUEST = embedder.EmbedRequest(texts=["a"])


class Witness:
    """Records who every kind of call was for."""

    def __init__(self) -> None:
        self.seen: list[Principal] = []
        self.script = Script(embed=self._embed, stream_embed=self._stream_embed, stream_generate=self._stream_generate)

    async def _embed(self, request: object) -> embedder.EmbedResponse:
        self.seen.append(call.principal())
        return embedder.EmbedResponse()

    async def _stream_embed(self, requests: AsyncIterator[object]) -> AsyncIterator[embedder.StreamEmbedResponse]:
        async for _ in requests:
            self.seen.append(call.principal())
            yield embedder.StreamEmbedResponse()

    async def _stream_generate(self, request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        self.seen.append(call.principal())
        yield generator.StreamGenerateResponse()


async def every_kind(channel: grpc.aio.Channel) -> None:
    async def frames() -> AsyncIterator[embedder.StreamEmbedRequest]:
        yield embedder.StreamEmbedRequest(text="a")

    stub = EmbedderServiceStub(channel)
    await stub.Embed(REQUEST)
    async for _ in stub.StreamEmbed(frames()):
        pass
    async for _ in GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest()):
        pass


async def refusal(address: str, metadata: list[tuple[str, str | bytes]]) -> errors.TandemError:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbedderServiceStub(channel).Embed(REQUEST, metadata=metadata, timeout=20)
    return from_rpc_error(caught.value)


async def test_the_tokens_owner_is_the_caller_in_every_kind() -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        async with connect(address, token="alice-token") as channel:
            await every_kind(channel)
    assert witness.seen == [ALICE] * 3


async def test_a_blocking_channel_presents_its_token_too() -> None:
    import asyncio

    witness = Witness()
    async with hosted(witness.script) as address:

        def work() -> None:
            with connect_sync(address, token="alice-token") as channel:
                EmbedderServiceStub(channel).Embed(REQUEST)
                list(EmbedderServiceStub(channel).StreamEmbed(iter([embedder.StreamEmbedRequest(text="a")])))

        await asyncio.to_thread(work)
    assert witness.seen == [ALICE] * 2


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer unknown")],
        [("authorization", "Basic alice-token")],
        [("authorization", "alice-token")],
        [("authorization", "Bearer " + "x" * 5000)],
        [("x-tandem-principal-bin", ROUTER.to_json().encode())],
        [("x-tandem-principal-bin", b"\xff")],
        [("tandem-subject", "alice"), ("x-user", "alice")],
    ],
    ids=range(10),
)
async def test_without_a_known_token_nobody_comes_in(metadata: list[tuple[str, str | bytes]]) -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        assert isinstance(await refusal(address, metadata), errors.Unauthenticated)
    assert witness.seen == []


async def test_without_a_token_file_nobody_comes_in_but_probes() -> None:
    async with hosted(Witness().script, tokens=None) as address:
        assert isinstance(await refusal(address, [("authorization", "Bearer alice-token")]), errors.Unauthenticated)
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_speaks_for_another_in_every_kind() -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        async with connect(address, token="router-token", forward_principal=True) as channel:
            with call.bind(principal=BRAM):
                await every_kind(channel)
            await EmbedderServiceStub(channel).Embed(REQUEST)
    assert witness.seen == [BRAM] * 3 + [ROUTER]


async def test_a_user_speaks_for_nobody_else() -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        for claimed in (BRAM, ALICE, ROUTER):
            got = await refusal(
                address,
                [("authorization", "Bearer alice-token"), ("x-tandem-principal-bin", claimed.to_json().encode())],
            )
            assert isinstance(got, errors.PermissionDenied)
    assert witness.seen == []


@pytest.mark.parametrize("claim", [b"", b"\xff", b"[]", b"{}", b'{"subject": "x", "tenant": ""}', b"[" * 4000])
async def test_a_service_must_name_a_principal(claim: bytes) -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        got = await refusal(address, [("authorization", "Bearer router-token"), ("x-tandem-principal-bin", claim)])
    assert isinstance(got, errors.InvalidInput)
    assert got.violations[0].field == "x-tandem-principal-bin"
    assert witness.seen == []


async def test_a_principal_is_not_passed_on_unless_asked_for() -> None:
    witness = Witness()
    async with hosted(witness.script) as address:
        async with connect(address, token="router-token") as channel:
            with call.bind(principal=BRAM):
                await EmbedderServiceStub(channel).Embed(REQUEST)
    assert witness.seen == [ROUTER]


async def test_calls_at_once_do_not_mix_their_callers() -> None:
    import asyncio

    barrier = asyncio.Barrier(2)

    async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
        before = call.principal().subject
        await barrier.wait()
        assert call.principal().subject == before == request.texts[0]
        return embedder.EmbedResponse()

    tokens = {**TOKENS, "bram-token": BRAM}
    async with hosted(Script(embed=embed), tokens=tokens) as address:
        async with connect(address, token="alice-token") as one, connect(address, token="bram-token") as two:
            await asyncio.gather(
                EmbedderServiceStub(one).Embed(embedder.EmbedRequest(texts=["alice"])),
                EmbedderServiceStub(two).Embed(embedder.EmbedRequest(texts=["bram"])),
            )
