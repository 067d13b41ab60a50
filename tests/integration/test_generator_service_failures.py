"""The generator over gRPC: callers who leave, full queues, failing steps and models that cannot be loaded."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.generator.backend.runner import PagedRunner
from services.generator.domain import Step, StepResult
from services.generator.engine.scheduler import Scheduler
from tandem.errors import ConfigError, DeadlineExceeded, Overloaded
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc as pb_grpc
from tests.fakes.generator_gate import Gate
from tests.fakes.generator_hosting import asking, endless, running, tiny, write_files
from tests.fakes.generator_model import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("generator"))


async def test_a_cancelled_stream_frees_its_slot_within_a_step(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with running(tiny(files, max_running=1)) as crowded:
        gate.close()
        gate.allow(3)
        stream = crowded.stub.StreamGenerate(pb.StreamGenerateRequest(request=endless()))
        async for event in stream:
            if event.WhichOneof("event") == "delta":
                break
        await gate.holds(4)
        stream.cancel()
        await crowded.until("calls_in_flight", 0, prefix="tandem_rpc_")
        following = asyncio.ensure_future(crowded.generate(asking(max_tokens=1)))
        await crowded.until("waiting_sequences", 1)
        # One step was in progress when the caller left; the next one belongs to the one who waited.
        gate.allow(2)
        assert (await following).finished.usage.output_tokens == 1
        assert gate.num_steps == 5
        assert crowded.metric("sequences_total", reason="cancelled") == 1


async def test_a_deadline_is_kept_and_frees_the_slot(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with running(tiny(files)) as slow:
        gate.close()
        async with connect(slow.address, token="alice", default_timeout_s=0.3) as channel:
            stub = pb_grpc.GeneratorServiceStub(channel)
            calls: list[Any] = [
                stub.Generate(endless()),
                stub.Score(pb.ScoreRequest(items=[pb.ScoreItem(text="a", continuation="b")])),
                stub.Sample(pb.SampleRequest(request=endless())),
            ]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)
        gate.allow(1000)
        await slow.until("running_sequences", 0)
        await slow.until("waiting_sequences", 0)


async def test_a_full_queue_says_when_to_come_back(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with running(tiny(files, max_running=1, max_waiting=2)) as crowded:
        gate.close()
        running_one = crowded.stub.Generate(endless(max_tokens=3))
        await crowded.until("running_sequences", 1)
        waiting = [crowded.stub.Generate(asking(max_tokens=1)) for _ in range(2)]
        await crowded.until("waiting_sequences", 2)
        score = pb.ScoreRequest(items=[pb.ScoreItem(text="a", continuation="b")])
        for request in (asking(), score, pb.SampleRequest(request=asking())):
            error = await crowded.refusal(request)
            assert isinstance(error, Overloaded)
            assert error.retry_after_s > 0
        assert crowded.metric("sequences_refused_total") >= 3
        gate.allow(1000)
        for call in [running_one, *waiting]:
            assert (await call).finished.usage.output_tokens > 0


async def test_a_step_that_fails_ends_its_sequences_and_no_others(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tiny(files)) as started:
        with monkeypatch.context() as patch:

            def broken(runner: PagedRunner, step: Step) -> StepResult:
                raise RuntimeError("out of memory, said with words from the prompt")

            patch.setattr(PagedRunner, "run", broken)
            error = await started.refusal(asking())
            assert (error.code, error.message) == ("INTERNAL", "internal error")
        assert (await started.generate(asking())).finished.usage.output_tokens > 0
        assert started.metric("sequences_total", reason="failed") == 1


async def test_an_engine_that_fails_tells_its_health(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tiny(files)) as started, grpc.aio.insecure_channel(started.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="tandem.v1.GeneratorService"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

        def broken(scheduler: Scheduler, now: float) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "plan", broken)
            assert (await started.refusal(asking())).code == "INTERNAL"
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        error = await started.refusal(asking())
        assert (error.code, error.reason) == ("UNAVAILABLE", "SERVICE_FAILED")


@pytest.mark.parametrize("damage", ["nowhere", "pickle", "cut"])
async def test_a_model_that_cannot_be_loaded_stops_the_start(tmp_path: Path, damage: str) -> None:
    folder = write_model(tmp_path / "tiny")
    weights = folder / "model.safetensors"
    if damage == "nowhere":
        shutil.rmtree(folder)
    elif damage == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError):
        async with running(tiny(tmp_path, adapter_dir=None)):
            pass
