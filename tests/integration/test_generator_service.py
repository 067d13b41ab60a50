"""The generator over gRPC: a tiny model for what can go wrong, the bundled model for what it says."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from services.generator.__main__ import build
from services.generator.config import GeneratorConfig
from services.generator.metrics import GeneratorMetrics
from tandem.errors import (
    ConfigError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
    TandemError,
    Unauthenticated,
)
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc as pb_grpc
from tests.fakes.generator_model import CONTEXT, write_adapter, write_model

PRINCIPALS = {
    "alice": Principal(subject="alice", tenant="halden", roles=frozenset({"user"})),
    "bram": Principal(subject="bram", tenant="brightwater", roles=frozenset({"user"})),
    "otto": Principal(subject="otto", tenant="halden", roles=frozenset({"auditor"})),
}


class ByName:
    """Takes a principal's name for its token."""

    def resolve(self, token: str) -> Principal:
        if token not in PRINCIPALS:
            raise Unauthenticated("unknown token")
        return PRINCIPALS[token]


@dataclass
class Running:
    address: str
    telemetry: Telemetry
    stub: "pb_grpc.GeneratorServiceAsyncStub"

    def metric(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"tandem_generator_{name}", labels) or 0.0

    async def until(self, name: str, value: float) -> None:
        for _ in range(6_000):
            if self.metric(name) == value:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"{name} was never {value}")

    @asynccontextmanager
    async def seen_by(self, name: str) -> AsyncIterator["pb_grpc.GeneratorServiceAsyncStub"]:
        async with connect(self.address, token=name) as channel:
            yield pb_grpc.GeneratorServiceStub(channel)

    async def generate(self, request: pb.GenerateRequest) -> pb.GenerateResponse:
        return await self.stub.Generate(request)

    async def refusal(self, request: pb.GenerateRequest) -> TandemError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.stub.Generate(request)
        return from_rpc_error(caught.value)


@asynccontextmanager
async def running(config: GeneratorConfig) -> AsyncIterator[Running]:
    telemetry = Telemetry(service="generator")
    app = await build(config, telemetry)
    async with serving(app, config, telemetry, authenticator=ByName()) as address:
        async with connect(address, token="alice", default_timeout_s=300) as channel:
            yield Running(address, telemetry, pb_grpc.GeneratorServiceStub(channel))
    telemetry.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generator")
    write_model(root / "tiny")
    adapters = root / "adapters"
    write_adapter(adapters / "halden" / "answers", seed=1)
    write_adapter(adapters / "halden" / "reading", seed=2)
    write_adapter(adapters / "brightwater" / "secret", seed=3)
    write_adapter(adapters / "_shared" / "style", seed=4)
    write_adapter(adapters / "halden" / "foreign", seed=5, width=40)
    (adapters / "halden" / "pickle").mkdir()
    (adapters / "halden" / "pickle" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    shutil.copytree(adapters / "halden" / "answers", adapters / "halden" / "broken")
    (adapters / "halden" / "broken" / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    return root


def tiny(files: Path, **changes: object) -> GeneratorConfig:
    config = GeneratorConfig(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        model=str(files / "tiny"),
        adapter_dir=files / "adapters",
        precision="fp32",
        threads=1,
        drain_seconds=0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(files: Path) -> AsyncIterator[Running]:
    async with running(tiny(files)) as started:
        yield started


def asking(text: str = "hello", *, adapter: str = "", tokens: bool = False, **sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text=text,
        adapter=adapter,
        sampling=pb.Sampling(**{"max_tokens": 16, **sampling}),  # type: ignore[arg-type]
        include_token_logprobs=tokens,
    )


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_stream_opens_once_closes_once_and_says_what_the_whole_text_is(service: Running) -> None:
    request = asking(tokens=True, adapter="answers")
    whole = await service.generate(request)
    events = [event async for event in service.stub.StreamGenerate(pb.StreamGenerateRequest(request=request))]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert set(kinds[1:-1]) == {"delta"}
    assert "".join(event.delta.text for event in events) == whole.text
    finished = events[-1].finished
    tokens = [token for event in events for token in event.delta.tokens]
    assert [token.token_id for token in tokens] == [token.token_id for token in whole.tokens]
    assert len(tokens) == finished.usage.output_tokens
    assert finished.mean_logprob == pytest.approx(sum(t.logprob for t in tokens) / len(tokens), abs=1e-5)
    assert finished.min_logprob == pytest.approx(min(t.logprob for t in tokens), abs=1e-5)
    assert [timing.stage for timing in finished.timings] == ["queue", "prefill", "decode"]
    assert events[0].started.lineage == finished.lineage == whole.finished.lineage
    assert events[0].started.input_tokens == finished.usage.input_tokens


async def test_lineage_names_the_files_that_were_used(service: Running, files: Path) -> None:
    import hashlib

    lineage = (await service.generate(asking(adapter="reading"))).finished.lineage
    model = await service.stub.GetModel(pb.GetModelRequest())
    base = hashlib.sha256((files / "tiny" / "model.safetensors").read_bytes()).hexdigest()
    path = files / "adapters" / "halden" / "reading" / "adapter_model.safetensors"
    assert (lineage.model, lineage.model_sha256, lineage.adapter) == ("tiny", base, "reading")
    assert lineage.adapter_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (model.lineage.model_sha256, model.max_context_tokens, model.precision) == (base, CONTEXT, "float32")


async def test_callers_with_different_adapters_at_once_get_what_they_get_alone(service: Running) -> None:
    requests = [
        asking(f"prompt {number} " * (1 + number % 3), adapter=adapter, max_tokens=24)
        for number, adapter in enumerate(["", "answers", "reading", "style", "answers", "", "style", "reading"])
    ]
    alone = [(await service.generate(request)).text for request in requests]
    together = await asyncio.gather(*(service.generate(request) for request in requests))
    assert [response.text for response in together] == alone
    assert len({(await service.generate(asking(adapter=name))).text for name in ("", "answers", "reading")}) == 3


async def test_adapters_are_seen_by_their_tenant_only(service: Running) -> None:
    mine = await service.stub.ListAdapters(pb.ListAdaptersRequest())
    assert [adapter.name for adapter in mine.adapters] == ["answers", "reading", "style"]
    assert {adapter.rank for adapter in mine.adapters} == {2}
    async with service.seen_by("bram") as stub:
        theirs = await stub.ListAdapters(pb.ListAdaptersRequest())
        assert [adapter.name for adapter in theirs.adapters] == ["secret", "style"]
        await stub.Generate(asking(adapter="secret"))
    refusals = [await service.refusal(asking(adapter=name)) for name in ("secret", "nothing", "../brightwater/secret")]
    assert all(isinstance(error, NotFound) for error in refusals)
    assert len({error.message for error in refusals}) == 1


async def test_adapters_come_in_pages(service: Running) -> None:
    names, token = [], ""
    while True:
        page = await service.stub.ListAdapters(pb.ListAdaptersRequest(page_size=2, page_token=token))
        names.append([adapter.name for adapter in page.adapters])
        token = page.next_page_token
        if not token:
            break
    assert names == [["answers", "reading"], ["style"]]
    for faulty in (pb.ListAdaptersRequest(page_size=-1), pb.ListAdaptersRequest(page_token="é?")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ListAdapters(faulty)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_bad_adapters_are_refused_with_a_reason_and_the_rest_is_served(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="services.generator"):
        async with running(tiny(files)) as started:
            assert started.metric("adapters_refused_total") == 3
            assert started.metric("loaded_adapters") == 4
            await started.generate(asking())
    for reason in ("only safetensors are loaded", "header is damaged", "the base model needs"):
        assert reason in caplog.text


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "prompt"),
        (pb.GenerateRequest(text=""), "text"),
        (pb.GenerateRequest(text="x" * 65_537), "text"),
        (pb.GenerateRequest(chat=pb.ChatPrompt()), "chat.messages"),
        (asking(max_tokens=0), "sampling.max_tokens"),
        (asking(max_tokens=4097), "sampling.max_tokens"),
        (asking(temperature=float("nan")), "sampling.temperature"),
        (asking(temperature=-0.1), "sampling.temperature"),
        (asking(top_p=0.0), "sampling.top_p"),
        (asking(top_k=-1), "sampling.top_k"),
        (asking(repetition_penalty=float("inf")), "sampling.repetition_penalty"),
        (asking(stop=[""]), "sampling.stop[0]"),
        (asking(stop=["x"] * 9), "sampling.stop"),
        (asking("x" * CONTEXT), "prompt"),
    ],
)
async def test_faulty_requests_name_the_field(service: Running, request_: pb.GenerateRequest, field: str) -> None:
    error = await service.refusal(request_)
    assert isinstance(error, InvalidInput)
    assert [violation.field for violation in error.violations] == [field]


@pytest.mark.parametrize(
    ("turns", "field"),
    [
        ([("user", "hi"), ("system", "obey"), ("user", "hi")], "chat.messages[1].role"),
        ([("robot", "hi"), ("user", "hi")], "chat.messages[0].role"),
        ([("user", "hi"), ("assistant", "hello")], "chat.messages"),
        ([("user", "")], "chat.messages[0].content"),
    ],
)
async def test_faulty_chats_name_the_turn(service: Running, turns: list[tuple[str, str]], field: str) -> None:
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    error = await service.refusal(pb.GenerateRequest(chat=pb.ChatPrompt(messages=messages)))
    assert isinstance(error, InvalidInput)
    assert [violation.field for violation in error.violations] == [field]


async def test_a_role_is_needed(service: Running) -> None:
    async with service.seen_by("otto") as stub:
        for call in (stub.Generate(asking()), stub.GetModel(pb.GetModelRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert isinstance(from_rpc_error(caught.value), PermissionDenied)


async def test_a_long_generation_ends_at_the_context(service: Running) -> None:
    response = await service.generate(asking("x" * (CONTEXT - 10), max_tokens=4096, tokens=True))
    assert response.finished.usage.input_tokens + response.finished.usage.output_tokens <= CONTEXT


async def test_a_cancelled_stream_frees_its_slot(service: Running) -> None:
    await service.until("running_sequences", 0)
    before = service.metric("sequences_total", reason="cancelled")
    request = asking("hi", max_tokens=4096, temperature=2.0, seed=1)
    stream = service.stub.StreamGenerate(pb.StreamGenerateRequest(request=request))
    async for event in stream:
        if event.WhichOneof("event") == "delta":
            break
    stream.cancel()
    await service.until("running_sequences", 0)
    ended = service.metric("sequences_total", reason="cancelled") - before
    # A short text may have ended by itself before the cancellation arrived.
    assert ended <= 1
    assert service.metric("running_tokens") == 0


async def test_a_deadline_is_kept_and_frees_the_slot(service: Running) -> None:
    async with connect(service.address, token="alice", default_timeout_s=0.001) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.GeneratorServiceStub(channel).Generate(asking(max_tokens=4096))
    assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)
    await service.until("running_sequences", 0)


async def test_a_full_queue_says_when_to_come_back(files: Path) -> None:
    async with running(tiny(files, max_running=1, max_waiting=1)) as crowded:
        calls = [crowded.stub.Generate(asking(f"prompt {n}", max_tokens=200)) for n in range(24)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        refused = [from_rpc_error(error) for error in ended if isinstance(error, grpc.aio.AioRpcError)]
        assert refused
        assert all(isinstance(error, Overloaded) and error.retry_after_s > 0 for error in refused)
        assert len(refused) < len(calls)
        assert crowded.metric("sequences_refused_total") == len(refused)
        counted = {
            sample.name
            for family in crowded.telemetry.registry.collect()
            for sample in family.samples
            if sample.name.endswith(("_total", "_count", "_adapters")) and sample.value > 0
        }
    telemetry = Telemetry(service="generator")
    GeneratorMetrics(telemetry.registry)
    declared = {family.name for family in telemetry.registry.collect()}
    present = {"waiting_sequences", "running_sequences", "running_tokens"}  # back to 0 when all is done
    wanted = declared - {f"tandem_generator_{name}" for name in present}
    assert {name.removesuffix("_total").removesuffix("_count") for name in counted} >= wanted
    telemetry.close()


async def test_a_model_without_a_chat_template_takes_text_only(tmp_path: Path) -> None:
    write_model(tmp_path / "bare", chat_template=False)
    config = tiny(tmp_path, model=str(tmp_path / "bare"), adapter_dir=None)
    async with running(config) as bare:
        assert (await bare.generate(asking())).finished.usage.output_tokens > 0
        error = await bare.refusal(pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "user", "content": "hi"}])))
    assert isinstance(error, FailedPrecondition)


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


async def test_the_bundled_model_answers_alone_and_in_company() -> None:
    config = GeneratorConfig(
        listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", precision="fp32", threads=1, drain_seconds=0
    )
    questions = ["What is the capital of France?", "Name a colour."]

    def chat(question: str, **sampling: object) -> pb.GenerateRequest:
        prompt = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=question)])
        return pb.GenerateRequest(chat=prompt, sampling=pb.Sampling(**{"max_tokens": 10, **sampling}))  # type: ignore[arg-type]

    async with running(config) as bundled:
        model = await bundled.stub.GetModel(pb.GetModelRequest())
        assert (model.lineage.model, model.max_context_tokens) == ("smollm2-135m-instruct", 8192)
        alone = [await bundled.generate(chat(question)) for question in questions]
        together = await asyncio.gather(*(bundled.generate(chat(question)) for question in questions))
        assert [r.text for r in together] == [r.text for r in alone]
        assert "Paris" in alone[0].text
        assert alone[0].finished.finish_reason == pb.FINISH_REASON_STOP
        stopped = await bundled.generate(chat(questions[0], stop=[" of Fra"]))
        assert stopped.text == alone[0].text.split(" of Fra")[0]
        request = chat("Tell me a story.", temperature=1.0, seed=7, max_tokens=4)
        drawn = [await bundled.generate(request) for _ in range(2)]
        assert drawn[0].text == drawn[1].text
