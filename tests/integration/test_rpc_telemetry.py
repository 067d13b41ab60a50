"""One trace over all hops, one count for every call, and nothing of what was said."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tandem import errors
from tandem.rpc.channel import connect
from tandem.telemetry import JsonFormatter, Telemetry
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceStub
from tests.fakes.rpc_hosting import hosted, peer, recording
from tests.fakes.rpc_peer import Script

SECRET = "policyholder Jane Roe"
REQUEST = embedder.EmbedRequest(texts=[SECRET])


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


async def test_two_hops_are_one_trace() -> None:
    spans = InMemorySpanExporter()
    near, far = recording("near", spans), recording("far", spans)
    async with hosted(telemetry=far) as address:
        async with connect(address, token="router-token", forward_principal=True) as onward:

            async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
                with near.tracer.start_as_current_span("work"):
                    await EmbedderServiceStub(onward).Embed(REQUEST)
                yield generator.StreamGenerateResponse()

            async with peer(Script(stream_generate=stream), telemetry=near) as channel:
                async for _ in GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest()):
                    pass
    found = by_name(spans)
    outer = found["tandem.v1.GeneratorService/StreamGenerate"]
    work, inner = found["work"], found["tandem.v1.EmbedderService/Embed"]
    assert outer.parent is None
    assert work.parent is not None
    assert inner.parent is not None
    assert work.parent.span_id == outer.context.span_id
    assert inner.parent.span_id == work.context.span_id
    assert len({span.context.trace_id for span in found.values()}) == 1
    assert outer.kind is inner.kind is SpanKind.SERVER
    assert dict(inner.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "tandem.v1.EmbedderService/Embed",
        "rpc.response.status_code": "OK",
    }


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.InvalidInput.of("text", "is bad"), "INVALID_ARGUMENT", StatusCode.UNSET),
        (errors.Overloaded("full", retry_after_s=1), "RESOURCE_EXHAUSTED", StatusCode.UNSET),
        (errors.DataLoss("torn"), "DATA_LOSS", StatusCode.ERROR),
        (ValueError(SECRET), "INTERNAL", StatusCode.ERROR),
    ],
    ids=["invalid", "overloaded", "data loss", "bug"],
)
async def test_a_failure_is_counted_and_traced_without_its_words(
    error: Exception, code: str, status: StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    async def embed(request: object) -> embedder.EmbedResponse:
        raise error

    spans = InMemorySpanExporter()
    telemetry = recording("peer", spans)
    caplog.set_level(logging.DEBUG, "tandem")
    async with peer(Script(embed=embed), telemetry=telemetry) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await EmbedderServiceStub(channel).Embed(REQUEST)
    span = by_name(spans)["tandem.v1.EmbedderService/Embed"]
    assert span.status.status_code is status
    assert (span.attributes or {})["rpc.response.status_code"] == code
    labels = {"rpc_method": "tandem.v1.EmbedderService/Embed", "rpc_response_status_code": code}
    assert telemetry.registry.get_sample_value("rpc_server_call_duration_seconds_count", labels) == 1
    assert telemetry.registry.get_sample_value("tandem_rpc_calls_in_flight") == 0
    assert SECRET not in span.to_json()
    assert SECRET not in "".join(JsonFormatter("peer").format(record) for record in caplog.records)


async def test_a_cancelled_call_is_counted_as_such() -> None:
    telemetry = Telemetry("peer")
    left = asyncio.Event()

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        try:
            yield generator.StreamGenerateResponse()
            await asyncio.Event().wait()
        finally:
            left.set()

    async with peer(Script(stream_generate=stream), telemetry=telemetry) as channel:
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        await running.read()
        assert telemetry.registry.get_sample_value("tandem_rpc_calls_in_flight") == 1
        running.cancel()
        await asyncio.wait_for(left.wait(), 20)
    labels = {"rpc_method": "tandem.v1.GeneratorService/StreamGenerate", "rpc_response_status_code": "CANCELLED"}
    assert telemetry.registry.get_sample_value("rpc_server_call_duration_seconds_count", labels) == 1
    assert telemetry.registry.get_sample_value("tandem_rpc_calls_in_flight") == 0


async def test_refusals_are_counted_by_reason() -> None:
    telemetry = Telemetry("peer")
    entered, release = asyncio.Event(), asyncio.Event()

    async def embed(request: object) -> embedder.EmbedResponse:
        entered.set()
        await release.wait()
        return embedder.EmbedResponse()

    async with peer(Script(embed=embed), telemetry=telemetry, max_concurrent_rpcs=1) as channel:
        first = asyncio.ensure_future(EmbedderServiceStub(channel).Embed(REQUEST))
        await entered.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await EmbedderServiceStub(channel).Embed(REQUEST)
        release.set()
        await first
    assert telemetry.registry.get_sample_value("tandem_rpc_calls_refused_total", {"reason": "too_many"}) == 1


async def test_log_lines_of_a_call_hold_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    lines = []

    async def embed(request: object) -> embedder.EmbedResponse:
        record = logging.makeLogRecord({"msg": "at work"})
        lines.append(JsonFormatter("peer").format(record))
        return embedder.EmbedResponse()

    spans = InMemorySpanExporter()
    async with peer(Script(embed=embed), telemetry=recording("peer", spans)) as channel:
        await EmbedderServiceStub(channel).Embed(REQUEST)
    (span,) = spans.get_finished_spans()
    assert f'"trace_id": "{span.context.trace_id:032x}"' in lines[0]


async def test_baggage_is_neither_logged_nor_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    arrived = []

    class Spy(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):
            arrived.extend(details.invocation_metadata)
            return await continuation(details)

    far = grpc.aio.server(interceptors=[Spy()])
    port = far.add_insecure_port("127.0.0.1:0")
    await far.start()
    async with connect(f"127.0.0.1:{port}") as onward:

        async def embed(request: object) -> embedder.EmbedResponse:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await EmbedderServiceStub(onward).Embed(REQUEST)
            return embedder.EmbedResponse()

        spans = InMemorySpanExporter()
        async with peer(Script(embed=embed), telemetry=recording("peer", spans)) as channel:
            for baggage in (f"who={SECRET.replace(' ', '')}", f"no baggage: {SECRET}"):
                await EmbedderServiceStub(channel).Embed(REQUEST, metadata=[("baggage", baggage)])
    await far.stop(None)
    keys = [key for key, _ in arrived]
    assert keys.count("traceparent") == 2
    assert "baggage" not in keys
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
