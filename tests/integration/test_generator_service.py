"""The generator over gRPC: streams, lineage, adapters, limits, and what the bundled model says."""

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.generator.config import GeneratorConfig
from services.generator.metrics import GeneratorMetrics
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded, PermissionDenied
from tandem.telemetry import Telemetry
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.adapter_versions import CIPHER, SIGNER
from tests.fakes.generator_hosting import Running, asking, endless, running, tiny, write_files
from tests.fakes.generator_model import CONTEXT, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("generator"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(files: Path) -> AsyncIterator[Running]:
    async with running(tiny(files)) as started:
        yield started


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
        (pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="robot")])), None, "INVALID_INPUT"),
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
        for change in (
            user.load_adapter("answers"),
            user.unload_adapter("answers"),
            user.promote_adapter("answers"),
            user.roll_back_adapter("answers"),
            user.set_adapter_canary("answers", 0),
        ):
            with pytest.raises(PermissionDenied, match="operator"):
                await change


async def test_a_long_generation_ends_at_the_context(service: Running) -> None:
    finished = (await service.generate(endless("x" * (CONTEXT - 10)))).finished
    assert finished.usage.input_tokens + finished.usage.output_tokens == CONTEXT
    assert finished.finish_reason == pb.FINISH_REASON_LENGTH


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
        chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="hi")])
        error = await bare.refusal(pb.GenerateRequest(chat=chat))
    assert isinstance(error, FailedPrecondition)


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
