"""The generator over gRPC: a tiny model for what can go wrong, the bundled model for what it says."""

import asyncio
import hashlib
import logging
import math
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.generator.backend.runner import PagedRunner
from services.generator.config import GeneratorConfig
from services.generator.domain import Step, StepResult
from services.generator.engine.scheduler import Scheduler
from services.generator.metrics import GeneratorMetrics
from tandem.errors import (
    ConfigError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
)
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.telemetry import Telemetry
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc as pb_grpc
from tests.fakes.adapter_versions import CIPHER, SIGNER
from tests.fakes.generator_hosting import Running, asking, endless, publish_random, running, tiny
from tests.fakes.generator_model import CONTEXT, write_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generator")
    write_model(root / "tiny")
    publish_random(root, "halden/answers", seed=1)
    publish_random(root, "halden/reading", seed=2, cipher=CIPHER)
    publish_random(root, "brightwater/secret", seed=3)
    publish_random(root, "_shared/style", seed=4)
    publish_random(root, "halden/foreign", seed=5, width=40)
    pickled = publish_random(root, "halden/pickle", seed=6)
    for file in pickled.iterdir():
        file.unlink()
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    (publish_random(root, "halden/broken", seed=7) / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(files: Path) -> AsyncIterator[Running]:
    async with running(tiny(files)) as started:
        yield started


class Gate:
    """Lets a model take as many steps as it was allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun = 0
        self.num_steps = 0
        self._permits = threading.Semaphore(0)
        self._closed = False
        run = PagedRunner.run

        def held(runner: PagedRunner, step: Step) -> StepResult:
            if self._closed:
                self.num_begun += 1
                if not self._permits.acquire(timeout=60):
                    raise TimeoutError("nobody let the step through")
                self.num_steps += 1
            return run(runner, step)

        monkeypatch.setattr(PagedRunner, "run", held)

    def close(self) -> None:
        """Holds every step from now on."""
        self._closed = True

    def allow(self, num_steps: int) -> None:
        """Lets so many held or coming steps go."""
        self._permits.release(num_steps)

    async def holds(self, number: int) -> None:
        """Waits until the step of this number, counted from 1, is held."""
        for _ in range(6_000):
            if self.num_begun >= number:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"step {number} never began")


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_stream_opens_once_closes_once_and_says_what_the_whole_text_is(service: Running) -> None:
    request = asking(tokens=True, adapter="answers")
    request.num_alternatives = 2
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
    assert finished.mean_entropy == pytest.approx(sum(t.entropy for t in tokens) / len(tokens), abs=1e-5)
    assert finished.max_entropy == pytest.approx(max(t.entropy for t in tokens), abs=1e-5)
    assert 0 <= finished.min_margin <= finished.mean_margin <= 1
    # Greedy: the token is the likeliest alternative.
    assert all(token.alternatives[0].token_id == token.token_id for token in tokens)
    assert all(token.alternatives[0].logprob >= token.alternatives[1].logprob for token in tokens)
    assert [timing.stage for timing in finished.timings] == ["queue", "prefill", "decode"]
    assert events[0].started.lineage == finished.lineage == whole.finished.lineage
    assert events[0].started.input_tokens == finished.usage.input_tokens
    assert [(cost.weight, cost.input_tokens) for cost in finished.streams] == [(1.0, finished.usage.input_tokens)]


async def test_lineage_names_the_files_that_were_used(service: Running, files: Path) -> None:
    lineage = (await service.generate(asking(adapter="reading"))).finished.lineage
    model = await service.stub.GetModel(pb.GetModelRequest())
    base = hashlib.sha256((files / "tiny" / "model.safetensors").read_bytes()).hexdigest()
    (version,) = (files / "adapters" / "halden" / "reading" / "versions").iterdir()
    (plain,) = (files / "adapters" / "halden" / "answers" / "versions").iterdir()
    assert (lineage.model, lineage.model_sha256, lineage.adapter) == ("tiny", base, "reading")
    assert lineage.adapter_sha256.startswith(version.name)
    assert (lineage.signer_key_id, lineage.cipher, lineage.cipher_key_id) == (
        SIGNER.key_id,
        "AES-256-GCM",
        CIPHER.key_id,
    )
    lineage = (await service.generate(asking(adapter="answers"))).finished.lineage
    path = plain / "adapter_model.safetensors"
    assert lineage.adapter_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (lineage.signer_key_id, lineage.cipher, lineage.cipher_key_id) == (SIGNER.key_id, "", "")
    assert (model.lineage.model_sha256, model.max_context_tokens, model.precision) == (base, CONTEXT, "float32")
    assert (model.backend, list(model.features)) == ("torch", ["adapters", "blending", "entropy", "scoring"])


async def test_callers_with_different_adapters_at_once_get_what_they_get_alone(service: Running) -> None:
    requests = [
        asking(f"prompt {number} " * (1 + number % 3), adapter=adapter, max_tokens=24)
        for number, adapter in enumerate(["", "answers", "reading", "style", "answers", "", "style", "reading"])
    ]
    alone = [(await service.generate(request)).text for request in requests]
    together = await asyncio.gather(*(service.generate(request) for request in requests))
    assert [response.text for response in together] == alone
    assert len({(await service.generate(asking(adapter=name))).text for name in ("", "answers", "reading")}) == 3


async def test_what_was_read_before_is_not_read_again_by_the_same_tenant_alone(service: Running) -> None:
    text = "a prefix that nobody else has: " + "x" * 100
    first, again = [(await service.generate(asking(text))).finished.usage for _ in range(2)]
    assert (first.cached_tokens, first.input_tokens) == (0, again.input_tokens)
    assert again.cached_tokens > again.input_tokens // 2
    assert again.computed_tokens < first.computed_tokens
    async with service.client("bram") as stranger:
        assert (await stranger.generate(asking(text))).finished.usage.cached_tokens == 0
    other = (await service.generate(asking(text, adapter="answers"))).finished.usage
    assert other.cached_tokens == 0


async def test_adapters_are_seen_by_their_tenant_only(service: Running) -> None:
    mine = await service.stub.ListAdapters(pb.ListAdaptersRequest())
    assert [adapter.name for adapter in mine.adapters] == ["answers", "reading", "style"]
    assert {(adapter.rank, adapter.num_sequences) for adapter in mine.adapters} == {(2, 0)}
    async with service.client("bram") as stranger:
        assert [adapter.name async for adapter in stranger.list_adapters()] == ["secret", "style"]
        await stranger.generate(asking(adapter="secret"))
        with pytest.raises(NotFound):
            await stranger.generate(asking(adapter="answers"))
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
        assert isinstance(await service.refusal(faulty), InvalidInput)


async def test_bad_adapters_are_refused_with_a_reason_and_the_rest_is_served(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="services.generator"):
        async with running(tiny(files)) as started:
            assert started.metric("adapters_refused_total") == 3
            assert started.metric("loaded_adapters") == 4
            await started.generate(asking())
    for reason in ("only safetensors are loaded", "adapter_model.safetensors has 64 bytes of", "the base model needs"):
        assert reason in caplog.text


PROMPTS = [pb.BlendPrompt(text="a", weight=1), pb.BlendPrompt(text="x" * CONTEXT, weight=1)]


@pytest.mark.parametrize(
    ("request_", "fields", "reason"),
    [
        (asking("x" * CONTEXT), ["prompt"], "PROMPT_TOO_LONG"),
        (pb.GenerateRequest(blend=pb.Blend(prompts=PROMPTS)), ["blend.prompts[1].prompt"], "PROMPT_TOO_LONG"),
        (pb.ScoreRequest(items=[pb.ScoreItem(text="a", continuation="x" * CONTEXT)]), None, "PROMPT_TOO_LONG"),
        (pb.SampleRequest(request=asking("x" * CONTEXT)), None, "PROMPT_TOO_LONG"),
        (asking(temperature=math.nan, max_tokens=0), ["sampling.max_tokens", "sampling.temperature"], "INVALID_INPUT"),
        (asking(logit_bias=[pb.LogitBias(token_id=300)]), ["sampling.logit_bias[0].token_id"], "INVALID_INPUT"),
        (pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "robot"}])), None, "INVALID_INPUT"),
        (pb.ScoreRequest(), ["items"], "INVALID_INPUT"),
        (pb.SampleRequest(request=asking(), num_samples=1), ["num_samples"], "INVALID_INPUT"),
    ],
)
async def test_what_is_wrong_is_named(service: Running, request_: Any, fields: list[str] | None, reason: str) -> None:
    error = await service.refusal(request_)
    assert isinstance(error, InvalidInput)
    assert error.reason == reason
    assert fields is None or [violation.field for violation in error.violations] == fields


async def test_a_role_is_needed(service: Running) -> None:
    async with service.client("otto") as auditor:
        for call in (auditor.generate(asking()), auditor.get_model(), auditor.score([]), auditor.load_adapter("x")):
            with pytest.raises(PermissionDenied):
                await call
    async with service.client("alice") as user:
        for call in (
            user.load_adapter("answers"),
            user.unload_adapter("answers"),
            user.promote_adapter("answers"),
            user.roll_back_adapter("answers"),
            user.set_adapter_canary("answers", 0),
        ):
            with pytest.raises(PermissionDenied, match="operator"):
                await call


async def test_a_long_generation_ends_at_the_context(service: Running) -> None:
    finished = (await service.generate(endless("x" * (CONTEXT - 10)))).finished
    assert finished.usage.input_tokens + finished.usage.output_tokens == CONTEXT
    assert finished.finish_reason == pb.FINISH_REASON_LENGTH


async def test_a_score_is_what_generation_tells_of_the_same_tokens(service: Running) -> None:
    items = [pb.ScoreItem(text="Once", continuation=text) for text in ("upon", "up", "zzzz")]
    async with service.client("alice") as client:
        response = await client.score(items, adapter="answers", include_token_logprobs=True)
        base = await client.score(items)
    whole, start, _ = response.scores
    assert [token.token for token in whole.tokens] == list("upon")
    assert whole.sum_logprob == pytest.approx(sum(token.logprob for token in whole.tokens), abs=1e-4)
    assert start.sum_logprob == pytest.approx(sum(token.logprob for token in whole.tokens[:2]), abs=1e-4)
    for index, token in enumerate(whole.tokens):
        # The bias chooses the token, and what is told of it is from before the bias.
        forced = [pb.LogitBias(token_id=token.token_id, bias=100)]
        request = asking("Once" + "upon"[:index], adapter="answers", tokens=True, max_tokens=1, logit_bias=forced)
        (told,) = (await service.generate(request)).tokens
        assert (told.token_id, told.token) == (token.token_id, token.token)
        assert told.logprob == pytest.approx(token.logprob, abs=1e-4)
        assert told.entropy == pytest.approx(token.entropy, abs=1e-4)
    assert (response.lineage.adapter, base.lineage.adapter) == ("answers", "")
    assert base.scores[0].sum_logprob != pytest.approx(whole.sum_logprob, abs=1e-3)
    assert response.usage.input_tokens == sum(4 + score.num_tokens for score in response.scores)


async def test_a_score_says_whether_the_model_would_have_said_that(service: Running) -> None:
    signs = [chr(code) for code in range(33, 127)]
    found = 0
    for prompt in ("Once", "upon", "a", "time", "there", "was"):
        (likeliest,) = (await service.generate(asking(prompt, tokens=True, max_tokens=1))).tokens
        items = [pb.ScoreItem(text=prompt, continuation=sign) for sign in signs]
        response = await service.stub.Score(pb.ScoreRequest(items=items))
        greedy = [sign for sign, score in zip(signs, response.scores, strict=True) if score.greedy]
        assert greedy == [sign for sign in signs if sign == likeliest.token]
        found += len(greedy)
    assert found


async def test_a_blend_of_one_prompt_with_itself_is_that_prompt(service: Running) -> None:
    alone = await service.generate(asking("Once", adapter="answers"))
    twice = [pb.BlendPrompt(text="Once", adapter="answers", weight=weight) for weight in (1.0, 3.0)]
    for mixing in (pb.MIXING_ARITHMETIC, pb.MIXING_LOGARITHMIC):
        blend = pb.Blend(prompts=twice, mixing=mixing)
        together = await service.generate(pb.GenerateRequest(blend=blend, sampling=pb.Sampling(max_tokens=16)))
        assert together.text == alone.text
    assert [round(cost.weight, 6) for cost in together.finished.streams] == [1.0, 3.0]
    assert together.finished.usage.input_tokens == 2 * alone.finished.usage.input_tokens


async def test_a_blend_runs_its_prompts_on_their_own_adapters(service: Running) -> None:
    prompts = [
        pb.BlendPrompt(text="Once upon a time " * 6, adapter="answers", weight=0.999),
        pb.BlendPrompt(text="b", weight=0.001),
    ]
    blended = await service.generate(
        pb.GenerateRequest(blend=pb.Blend(prompts=prompts), sampling=pb.Sampling(max_tokens=8))
    )
    alone = await service.generate(asking("Once upon a time " * 6, adapter="answers", max_tokens=8))
    assert blended.text == alone.text
    assert [cost.lineage.adapter for cost in blended.finished.streams] == ["answers", ""]
    other = [pb.BlendPrompt(text="b", weight=1), pb.BlendPrompt(text="c", adapter="secret", weight=1)]
    assert isinstance(await service.refusal(pb.GenerateRequest(blend=pb.Blend(prompts=other))), NotFound)


async def test_samples_differ_and_a_seed_brings_them_back(service: Running) -> None:
    async with service.client("alice") as client:
        drawn = [
            await client.sample(asking("Once", adapter="answers", seed=7, max_tokens=6), num_samples=4)
            for _ in range(2)
        ]
        free = await client.sample(asking("Once", max_tokens=6))
    first = [sample.text for sample in drawn[0].samples]
    assert first == [sample.text for sample in drawn[1].samples]
    assert len(set(first)) > 1
    assert len(free.samples) == 5
    response = drawn[0]
    assert response.lineage.adapter == "answers"
    clusters = [sample.cluster for sample in response.samples]
    assert set(clusters) == set(range(response.num_clusters))
    assert clusters[0] == 0
    shares = [clusters.count(cluster) / 4 for cluster in set(clusters)]
    assert response.semantic_entropy == pytest.approx(-sum(share * math.log(share) for share in shares))


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


async def test_every_declared_metric_is_told(files: Path) -> None:
    config = tiny(files, kv_cache_tokens=256, max_running=4, max_waiting=8, adapter_dir=files / "adapters")
    async with running(config) as busy, busy.client("olga") as client:
        blend = pb.Blend(prompts=[pb.BlendPrompt(text="a", weight=1), pb.BlendPrompt(text="b", weight=1)])
        await client.generate(pb.GenerateRequest(blend=blend, sampling=pb.Sampling(max_tokens=2)))
        await client.score([pb.ScoreItem(text="a", continuation="b")])
        for _ in range(2):
            await client.generate(asking("y" * 60))
        calls = [client.generate(endless(f"prompt {n}", max_tokens=150)) for n in range(24)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(error, Overloaded) for error in ended)
        stable = (await client.load_adapter("answers")).adapter.version
        await client.promote_adapter("answers", version=stable)
        await client.generate(asking(adapter="answers"))
        await client.unload_adapter("answers")
        await busy.until("adapter_unloads_total", 1)
        told = {
            sample.name
            for family in busy.telemetry.registry.collect()
            for sample in family.samples
            if sample.name.endswith(("_total", "_count", "_adapters", "_blocks")) and sample.value > 0
        }
    telemetry = Telemetry(service="generator")
    GeneratorMetrics(telemetry.registry)
    declared = {family.name for family in telemetry.registry.collect()}
    present = {"waiting_sequences", "running_sequences", "retired_adapters"}  # back to 0 when all is done
    wanted = declared - {f"tandem_generator_{name}" for name in present}
    assert {name.removesuffix("_total").removesuffix("_count") for name in told} >= wanted
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
    config = replace(GeneratorConfig(), listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", precision="fp32", threads=1)
    questions = ["What is the capital of France?", "Name a colour."]

    def chat(question: str, **sampling: object) -> pb.GenerateRequest:
        prompt = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=question)])
        return pb.GenerateRequest(chat=prompt, sampling=pb.Sampling(**{"max_tokens": 10, **sampling}))  # type: ignore[arg-type]

    async with running(replace(config, drain_seconds=0)) as bundled:
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
