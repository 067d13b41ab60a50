"""The life of a server: loading, ready, draining, gone; and the real process around it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tandem import errors
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.security import issue, write_secret
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceStub
from tests.fakes.rpc_hosting import hosted, peer
from tests.fakes.rpc_peer import ALICE, EMBEDDER, GENERATOR, Script, app

ROOT = Path(__file__).resolve().parents[2]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST = embedder.EmbedRequest(texts=["a"])


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))).status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_while_loading_it_is_alive_and_not_ready() -> None:
    port, seen = free_port(), []

    async def start() -> None:
        seen.extend([await health(f"127.0.0.1:{port}", name) for name in ("", EMBEDDER, GENERATOR)])
        async with connect(f"127.0.0.1:{port}", token="alice-token") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EmbedderServiceStub(channel).Embed(REQUEST)
            seen.append(from_rpc_error(caught.value))

    async with hosted(app(Script(), start=start), listen=f"127.0.0.1:{port}") as address:
        assert [await health(address, name) for name in ("", EMBEDDER, GENERATOR)] == [SERVING] * 3
    assert seen[:3] == [SERVING, NOT_SERVING, NOT_SERVING]
    assert isinstance(seen[3], errors.Unavailable)
    assert (seen[3].reason, seen[3].retry_after_s) == ("SERVICE_LOADING", 1.0)


async def test_a_start_that_fails_lets_go() -> None:
    stopped = []

    async def start() -> None:
        raise errors.ConfigError("no weights")

    async def stop() -> None:
        stopped.append(True)

    with pytest.raises(errors.ConfigError, match="no weights"):
        async with hosted(app(Script(), start=start, stop=stop)):
            raise AssertionError
    assert stopped == [True]


async def test_an_app_that_can_serve_no_longer_says_so_and_refuses_calls() -> None:
    failing = app(Script())
    async with hosted(failing) as address, connect(address, token="alice-token") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=EMBEDDER))
        assert (await watch.read()).status == SERVING
        failing.failed.set()
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        assert await health(address, "") == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbedderServiceStub(channel).Embed(REQUEST)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == ("UNAVAILABLE", "SERVICE_FAILED")


async def test_an_app_that_fails_while_it_starts_is_never_ready() -> None:
    failing = app(Script())
    failing.failed.set()
    async with hosted(failing) as address:
        assert await health(address, EMBEDDER) == NOT_SERVING


async def test_an_unknown_service_has_no_health() -> None:
    async with hosted() as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(address, "tandem.v1.NoService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_draining_tells_watchers_first_and_lets_a_stream_finish() -> None:
    release, events, watched = asyncio.Event(), [], []

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        yield generator.StreamGenerateResponse(started=generator.GenerationStarted())
        await release.wait()
        yield generator.StreamGenerateResponse(finished=generator.GenerationFinished())

    leave = asyncio.Event()

    async def host(address: asyncio.Future[str]) -> None:
        async with hosted(Script(stream_generate=stream)) as bound:
            address.set_result(bound)
            await leave.wait()

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(host(address))
    async with connect(await address, token="alice-token") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=EMBEDDER))
        watched.append((await watch.read()).status)
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        events.append(await running.read())
        leave.set()
        watched.append((await watch.read()).status)
        release.set()
        events.extend([event async for event in running])
        watch.cancel()
        await asyncio.wait_for(server, 20)
    assert watched == [SERVING, NOT_SERVING]
    assert [event.WhichOneof("event") for event in events] == ["started", "finished"]


async def test_a_watcher_does_not_hold_up_the_end() -> None:
    started = asyncio.get_running_loop().time()
    async with hosted(drain_seconds=60.0) as address:
        channel = grpc.aio.insecure_channel(address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=EMBEDDER))
        assert (await watch.read()).status == SERVING
    assert asyncio.get_running_loop().time() - started < 30
    await channel.close()


async def test_what_outlasts_the_drain_is_cancelled() -> None:
    ended = asyncio.Event()

    async def stream(request: object) -> AsyncIterator[generator.StreamGenerateResponse]:
        try:
            yield generator.StreamGenerateResponse()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with hosted(Script(stream_generate=stream), drain_seconds=0.1) as address:
        channel = connect(address, token="alice-token")
        running = GeneratorServiceStub(channel).StreamGenerate(generator.StreamGenerateRequest())
        await running.read()
    await asyncio.wait_for(ended.wait(), 20)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await running.read()
    await channel.close()


async def test_reflection_lists_the_services() -> None:
    async with peer() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        running = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await running.read()
    names = {service.name for service in answer.list_services_response.service}
    assert names == {EMBEDDER, GENERATOR, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


class Process:
    """A service process, and what it wrote."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("ECHO_", "OTEL_"))}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.rpc_process", *arguments],
            cwd=ROOT,
            env=environ | {f"ECHO_{key}": value for key, value in variables.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def until(self, message: str) -> dict[str, object]:
        """Reads log lines until one has the message."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            if f'"message": "{message}' in line:
                return json.loads(line)
        raise AssertionError("".join(self.lines))

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Sends a signal if given, and returns the exit status and all that was written."""
        if number is not None:
            self.popen.send_signal(number)
        try:
            out, err = self.popen.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise
        return self.popen.returncode, out + "".join(self.lines) + err


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    running: list[Process] = []
    yield running
    for process in running:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[str, str]:
    """A token file and the token in it."""
    text, names = issue({"alice": ALICE})
    write_secret(tmp_path / "tokens.json", text)
    return str(tmp_path / "tokens.json"), names["alice"]


async def test_a_process_serves_drains_and_exits_clean(processes: list[Process], tokens: tuple[str, str]) -> None:
    file, token = tokens
    process = Process(TOKEN_FILE=file)
    processes.append(process)
    address = str(process.until("listening")["address"])
    process.until("ready")
    async with connect(address, token=token) as channel:
        running = EmbedderServiceStub(channel).Embed(embedder.EmbedRequest(texts=["sleep 1"]))
        await running.wait_for_connection()
        await health(address, EMBEDDER)
        process.popen.send_signal(signal.SIGTERM)
        assert (await running) == embedder.EmbedResponse()
    status, text = await asyncio.to_thread(process.end)
    assert status == 0, text
    assert [row for row in ("draining", "let go", "stopped") if row not in text] == []
    assert "Traceback" not in text


async def test_a_process_whose_app_fails_lets_go_and_ends_with_a_fault(
    processes: list[Process], tokens: tuple[str, str]
) -> None:
    file, token = tokens
    process = Process(TOKEN_FILE=file)
    processes.append(process)
    address = str(process.until("listening")["address"])
    process.until("ready")
    async with connect(address, token=token) as channel:
        await EmbedderServiceStub(channel).Embed(embedder.EmbedRequest(texts=["fail"]))
    status, text = await asyncio.to_thread(process.end)
    assert status == 1, text
    assert [row for row in ("can serve no longer", "draining", "let go", "stopped") if row not in text] == []
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_while_loading_ends_it(processes: list[Process], number: int) -> None:
    process = Process(LOAD_SECONDS="600")
    processes.append(process)
    process.until("listening")
    status, text = process.end(number)
    assert status == 0, text
    assert "let go" in text
    assert "Traceback" not in text


async def test_metrics_are_served_over_http(processes: list[Process], tokens: tuple[str, str]) -> None:
    file, token = tokens
    process = Process(TOKEN_FILE=file)
    processes.append(process)
    row = process.until("listening")
    process.until("ready")
    async with connect(str(row["address"]), token=token) as channel:
        await EmbedderServiceStub(channel).Embed(REQUEST)

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{row['metrics_port']}/metrics", timeout=10) as reply:
            return reply.read().decode()

    text = await asyncio.to_thread(scrape)
    labels = 'rpc_method="tandem.v1.EmbedderService/Embed",rpc_response_status_code="OK"'
    assert f"rpc_server_call_duration_seconds_count{{{labels}}} 1.0" in text
    assert "process_resident_memory_bytes" in text


def test_a_misspelt_variable_stops_the_start_with_a_suggestion(processes: list[Process]) -> None:
    process = Process(MAX_MESAGE_BYTES="100000")
    processes.append(process)
    status, text = process.end()
    assert (status, text) == (
        2,
        "echo: unknown variable ECHO_MAX_MESAGE_BYTES; did you mean ECHO_MAX_MESSAGE_BYTES?\n",
    )


def test_a_value_out_of_range_stops_the_start(processes: list[Process]) -> None:
    process = Process(LOAD_SECONDS="-1")
    processes.append(process)
    assert process.end() == (2, "echo: ECHO_LOAD_SECONDS=-1.0 is out of range: from 0\n")


def test_help_prints_the_knobs(processes: list[Process]) -> None:
    process = Process("--help")
    processes.append(process)
    status, text = process.end()
    assert status == 0
    assert "ECHO_LOAD_SECONDS=0.0  (float, s, >= 0)" in text
    assert "ECHO_MAX_CONCURRENT_RPCS=256" in text
    assert "How long the start takes." in text


@pytest.mark.parametrize("variable", ["LISTEN", "METRICS_LISTEN"])
def test_a_taken_port_is_told(processes: list[Process], variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = Process(**{variable: address})
        processes.append(process)
        status, text = process.end()
    assert status == 2, text
    assert f"echo: cannot listen on {address}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "no.such.host.invalid:0", ""]
)
@pytest.mark.parametrize("variable", ["LISTEN", "METRICS_LISTEN"])
def test_a_senseless_address_is_told(processes: list[Process], variable: str, address: str) -> None:
    process = Process(**{variable: address})
    processes.append(process)
    status, text = process.end()
    assert status == 2, text
    assert f"cannot listen on {address or repr(address)}" in text
    assert "Traceback" not in text


def test_a_missing_token_file_is_told(processes: list[Process], tmp_path: Path) -> None:
    process = Process(TOKEN_FILE=str(tmp_path / "none.json"))
    processes.append(process)
    status, text = process.end()
    assert (status, text) == (
        2,
        f"echo: cannot read the token file {tmp_path / 'none.json'}: No such file or directory\n",
    )


@pytest.mark.parametrize("variable", ["FAIL_START", "CRASH_START"])
def test_a_start_that_fails_says_why_and_exits_1(processes: list[Process], variable: str) -> None:
    process = Process(**{variable: "no weights here"})
    processes.append(process)
    row = process.until("cannot start")
    assert row["message"] == "cannot start: no weights here"
    assert ("exception" in row) == (variable == "CRASH_START")
    status, text = process.end()
    assert status == 1, text
    assert "let go" in text
