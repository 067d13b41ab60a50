"""The servicer: what it asks the backend for, and what it tells of the backend's answers."""

import asyncio
import math
import time
from pathlib import Path

import pytest

from services.generator.domain import GenerateInput, Message, Mixing, Priority, ScoreInput
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_servicer import bench, blended, item, said, sampled, text


async def test_what_is_unset_has_its_documented_default(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(text())
        asked = made.asked()
        sampling = asked.sampling
        assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (128, 0.0, 1.0, 0)
        assert (sampling.min_p, sampling.seed, sampling.stop, sampling.logit_bias) == (0.0, None, (), ())
        assert sampling.repetition_penalty == 1.0
        assert (asked.tenant, asked.priority, asked.num_alternatives) == ("halden", Priority.INTERACTIVE, 0)
        assert asked.deadline is None
        assert [(stream.prompt, stream.pin, stream.weight) for stream in asked.streams] == [("hello", None, 1.0)]


async def test_what_is_set_reaches_the_backend(tmp_path: Path) -> None:
    sampling = pb.Sampling(
        max_tokens=7, temperature=0.5, top_p=0.5, top_k=3, seed=-9, stop=["x"], repetition_penalty=2, min_p=0.25,
        logit_bias=[pb.LogitBias(token_id=99, bias=-100)],
    )  # fmt: skip
    request = pb.GenerateRequest(
        chat=said(("system", "be brief"), ("user", "hi")), adapter="answers", sampling=sampling,
        include_token_logprobs=True, num_alternatives=20, priority=pb.PRIORITY_BATCH,
    )  # fmt: skip
    async with bench(tmp_path) as made:
        before = time.monotonic()
        await made.call(request, left_s=50)
        asked = made.asked()
        assert asked.deadline is not None
        assert before + 49 < asked.deadline < before + 60
        wanted = (7, 0.5, 0.5, 3, -9, ("x",), 2.0, 0.25, ((99, -100.0),))
        given = asked.sampling
        assert wanted == (
            given.max_tokens, given.temperature, given.top_p, given.top_k, given.seed, given.stop,
            given.repetition_penalty, given.min_p, given.logit_bias,
        )  # fmt: skip
        assert (asked.num_alternatives, asked.priority) == (20, Priority.BATCH)
        assert asked.streams[0].prompt == (Message("system", "be brief"), Message("user", "hi"))
        assert [pin.adapter.name for pin in asked.pins] == ["answers"]


async def test_a_blend_has_its_weights_scaled_only_where_probabilities_are_averaged(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(blended(1.0, 3.0))
        assert (made.asked().mixing, [s.weight for s in made.asked().streams]) == (Mixing.ARITHMETIC, [0.25, 0.75])
        await made.call(blended(5e-324, 5e-324))
        assert [s.weight for s in made.asked().streams] == [0.5, 0.5]
        await made.call(blended(1.5, -0.5, mixing=pb.MIXING_LOGARITHMIC))
        assert (made.asked().mixing, [s.weight for s in made.asked().streams]) == (Mixing.LOGARITHMIC, [1.5, -0.5])


async def test_the_prompts_of_a_blend_run_on_their_own_adapters_and_count_as_one_sequence(tmp_path: Path) -> None:
    prompts = [
        pb.BlendPrompt(text="a", adapter="answers", weight=1),
        pb.BlendPrompt(text="b", adapter="answers", weight=1),
        pb.BlendPrompt(text="c", adapter="style", weight=1),
        pb.BlendPrompt(text="d", weight=1),
    ]
    async with bench(tmp_path, hold=True) as made:
        running = asyncio.create_task(made.call(pb.GenerateRequest(blend=pb.Blend(prompts=prompts))))
        await made.backend.started.wait()
        pins = [stream.pin for stream in made.asked().streams]
        assert [pin and (pin.adapter.tenant, pin.adapter.name) for pin in pins] == [
            ("halden", "answers"), ("halden", "answers"), ("_shared", "style"), None,
        ]  # fmt: skip
        page = await made.call(pb.ListAdaptersRequest())
        assert {row.name: row.num_sequences for row in page.adapters} == {"answers": 1, "reading": 0, "style": 0}
        made.backend.proceed.set()
        response = await running
        assert [cost.lineage.adapter for cost in response.finished.streams] == ["answers", "answers", "style", ""]


async def test_what_the_backend_tells_is_told_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        request = text(include_token_logprobs=True, num_alternatives=2, adapter="answers")
        response = await made.call(request)
        assert response.text == "one two!"
        assert [token.token for token in response.tokens] == ["one", "two"]
        assert [other.token for other in response.tokens[0].alternatives] == ["t0", "t1"]
        assert response.tokens[0].entropy == 0.25
        finished = response.finished
        assert (finished.finish_reason, finished.mean_logprob, finished.min_logprob) == (1, -0.5, -1.0)
        assert (finished.mean_entropy, finished.max_entropy) == (0.25, 0.5)
        assert not finished.HasField("mean_margin")
        assert not finished.HasField("min_margin")
        usage = finished.usage
        assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.computed_tokens) == (3, 2, 1, 9)
        assert [(t.stage, t.duration.ToMilliseconds()) for t in finished.timings] == [
            ("queue", 100), ("prefill", 200), ("decode", 300),
        ]  # fmt: skip
        assert finished.lineage.adapter_sha256 == made.registry.find("answers", tenant="halden").sha256
        events = await made.call(pb.StreamGenerateRequest(request=text()))
        assert [event.WhichOneof("event") for event in events] == ["started", "delta", "delta", "delta", "finished"]
        assert "".join(event.delta.text for event in events) == "one two!"
        assert not any(event.delta.tokens for event in events)


async def test_scores_are_told_in_order_and_wait_behind_people_unless_told_otherwise(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        request = pb.ScoreRequest(items=[item(), item(continuation="c d")], adapter="reading")
        response = await made.call(request)
        assert [(s.sum_logprob, s.num_tokens, s.greedy, len(s.tokens)) for s in response.scores] == [
            (-0.5, 1, True, 0), (-1.0, 2, True, 0),
        ]  # fmt: skip
        assert (response.usage.input_tokens, response.lineage.adapter) == (7, "reading")
        asked = made.backend.requests[-1]
        assert isinstance(asked, ScoreInput)
        assert (asked.priority, asked.tenant) == (Priority.BATCH, "halden")
        request.priority, request.include_token_logprobs = pb.PRIORITY_INTERACTIVE, True
        response = await made.call(request)
        assert [token.token for token in response.scores[1].tokens] == ["c", "d"]
        asked = made.backend.requests[-1]
        assert asked.priority is Priority.INTERACTIVE


async def test_samples_differ_by_their_seeds_alone(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(pb.SampleRequest(request=sampled(seed=2**63 - 1, temperature=0.5), num_samples=3))
        drawn = [request for request in made.backend.requests if isinstance(request, GenerateInput)]
        assert sorted(r.sampling.seed for r in drawn if r.sampling.seed is not None) == [0, 1, 2**63 - 1]
        assert {r.sampling.temperature for r in drawn} == {0.5}
        made.backend.requests.clear()
        await made.call(pb.SampleRequest(request=text(num_alternatives=3, include_token_logprobs=True)))
        drawn = [request for request in made.backend.requests if isinstance(request, GenerateInput)]
        assert [(r.sampling.seed, r.sampling.temperature, r.num_alternatives) for r in drawn] == [(None, 1.0, 0)] * 5


async def test_samples_tell_which_answers_say_the_same(tmp_path: Path) -> None:
    replies = iter(["Paris.", "the Paris", "Rome", "Paris"])
    async with bench(tmp_path, reply=lambda request: next(replies)) as made:
        response = await made.call(pb.SampleRequest(request=text(adapter="answers"), num_samples=4))
        assert (response.num_clusters, len(response.samples)) == (2, 4)
        assert sorted(sample.cluster for sample in response.samples) == [0, 0, 0, 1]
        assert response.semantic_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
        assert response.lineage.adapter == "answers"
        assert response.usage.output_tokens == sum(len(sample.text.split()) for sample in response.samples)
