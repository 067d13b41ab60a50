"""The servicer: what it takes for faulty, and that every faulty field is named."""

import math
from pathlib import Path
from typing import Any, cast

import pytest

from tandem.errors import InvalidInput
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_servicer import bench, blended, item, said, sampled, text

TEXT_LIMIT = 65_536
MILLION = 2**20


def biased(*pairs: tuple[int, float]) -> pb.GenerateRequest:
    return sampled(logit_bias=[pb.LogitBias(token_id=token, bias=bias) for token, bias in pairs])


def long_chat(total: int) -> pb.ChatPrompt:
    turns = [("user", "x" * TEXT_LIMIT)] * (total // TEXT_LIMIT)
    return said(*turns, *([("user", "x" * (total % TEXT_LIMIT))] if total % TEXT_LIMIT else []))


FAULTS: list[tuple[pb.GenerateRequest, list[str]]] = [
    (pb.GenerateRequest(), ["prompt"]),
    (pb.GenerateRequest(text=""), ["text"]),
    (pb.GenerateRequest(text="x" * (TEXT_LIMIT + 1)), ["text"]),
    (pb.GenerateRequest(chat=pb.ChatPrompt()), ["chat.messages"]),
    (pb.GenerateRequest(chat=said(*[("user", "a")] * 65)), ["chat.messages"]),
    (pb.GenerateRequest(chat=said(("user", "a"), ("system", "b"), ("user", "c"))), ["chat.messages[1].role"]),
    (
        pb.GenerateRequest(chat=said(("robot", "a"), ("user", ""))),
        ["chat.messages[0].role", "chat.messages[1].content"],
    ),
    (pb.GenerateRequest(chat=said(("user", "a"), ("assistant", "b"))), ["chat.messages"]),
    (pb.GenerateRequest(chat=long_chat(MILLION + 1)), ["chat.messages"]),
    (text(adapter="x" * 1025), ["adapter"]),
    (sampled(max_tokens=0), ["sampling.max_tokens"]),
    (sampled(max_tokens=4097), ["sampling.max_tokens"]),
    (sampled(temperature=math.nan), ["sampling.temperature"]),
    (sampled(temperature=-0.1, top_p=0.0), ["sampling.temperature", "sampling.top_p"]),
    (sampled(temperature=2.1), ["sampling.temperature"]),
    (sampled(top_p=1.1), ["sampling.top_p"]),
    (sampled(top_k=-1), ["sampling.top_k"]),
    (sampled(top_k=1001), ["sampling.top_k"]),
    (sampled(min_p=math.nan), ["sampling.min_p"]),
    (sampled(min_p=1.5), ["sampling.min_p"]),
    (sampled(repetition_penalty=math.inf), ["sampling.repetition_penalty"]),
    (sampled(repetition_penalty=0.4), ["sampling.repetition_penalty"]),
    (sampled(stop=["x"] * 9), ["sampling.stop"]),
    (sampled(stop=["ok", "", "x" * 65]), ["sampling.stop[1]", "sampling.stop[2]"]),
    (biased((1, 1.0), (1, 2.0)), ["sampling.logit_bias[1].token_id"]),
    (biased((-1, 1.0), (100, 1.0)), ["sampling.logit_bias[0].token_id", "sampling.logit_bias[1].token_id"]),
    (biased((1, math.nan), (2, 101.0)), ["sampling.logit_bias[0].bias", "sampling.logit_bias[1].bias"]),
    (biased(*[(1, 1.0)] * 301), ["sampling.logit_bias"]),
    (text(priority=cast(Any, 7)), ["priority"]),
    (text(num_alternatives=21, include_token_logprobs=True), ["num_alternatives"]),
    (text(num_alternatives=-1), ["num_alternatives"]),
    (text(num_alternatives=1), ["num_alternatives"]),
    (blended(1.0), ["blend.prompts"]),
    (blended(*[1.0] * 17), ["blend.prompts"]),
    (blended(1.0, 1.0, adapter="answers"), ["adapter"]),
    (blended(1.0, 1.0, mixing=9), ["blend.mixing"]),
    (blended(1.0, math.nan), ["blend.prompts[1].weight"]),
    (blended(math.inf, 10.5), ["blend.prompts[0].weight", "blend.prompts[1].weight"]),
    (blended(1.0, 0.0), ["blend.prompts[1].weight"]),
    (blended(1.0, -1.0), ["blend.prompts[1].weight"]),
    (blended(1.0, 0.0, mixing=pb.MIXING_LOGARITHMIC), ["blend.prompts[1].weight"]),
    (
        pb.GenerateRequest(blend=pb.Blend(prompts=[pb.BlendPrompt(weight=1), pb.BlendPrompt(text="", weight=1)])),
        ["blend.prompts[0].prompt", "blend.prompts[1].text"],
    ),
    (
        pb.GenerateRequest(
            blend=pb.Blend(
                prompts=[pb.BlendPrompt(chat=said(("system", "a")), weight=1, adapter="x" * 1025), pb.BlendPrompt()]
            )
        ),
        [
            "blend.prompts[0].adapter",
            "blend.prompts[0].chat.messages",
            "blend.prompts[1].prompt",
            "blend.prompts[1].weight",
        ],
    ),
    (
        pb.GenerateRequest(blend=pb.Blend(prompts=[pb.BlendPrompt(chat=long_chat(MILLION - 9), weight=1)] * 2)),
        ["blend.prompts"],
    ),
]


@pytest.mark.parametrize(("request_", "fields"), FAULTS, ids=[",".join(fields) for _, fields in FAULTS])
async def test_every_faulty_field_of_a_sequence_is_named(
    tmp_path: Path, request_: pb.GenerateRequest, fields: list[str]
) -> None:
    async with bench(tmp_path) as made:
        for wrapped, within in (
            (request_, ""),
            (pb.StreamGenerateRequest(request=request_), "request."),
            (pb.SampleRequest(request=request_), "request."),
        ):
            error = await made.refusal(wrapped)
            assert isinstance(error, InvalidInput)
            assert [violation.field for violation in error.violations] == [within + field for field in fields]
        assert made.backend.requests == []


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.ScoreRequest(), ["items"]),
        (pb.ScoreRequest(items=[item()] * 257), ["items"]),
        (
            pb.ScoreRequest(
                items=[item("", ""), pb.ScoreItem(continuation="x" * (TEXT_LIMIT + 1))], adapter="x" * 1025
            ),
            ["adapter", "items[0].text", "items[0].continuation", "items[1].prompt", "items[1].continuation"],
        ),
        (pb.ScoreRequest(items=[item("x" * TEXT_LIMIT, "y" * TEXT_LIMIT)] * 9), ["items"]),
        (pb.ScoreRequest(items=[item()], priority=cast(Any, -1)), ["priority"]),
        (pb.SampleRequest(request=sampled(temperature=0.0)), ["request.sampling.temperature"]),
        (pb.SampleRequest(request=text(), num_samples=1), ["num_samples"]),
        (pb.SampleRequest(request=text(), num_samples=17), ["num_samples"]),
        (pb.SampleRequest(num_samples=-1), ["request.prompt", "num_samples"]),
    ],
)
async def test_every_faulty_field_of_scores_and_samples_is_named(
    tmp_path: Path, request_: Any, fields: list[str]
) -> None:
    async with bench(tmp_path) as made:
        error = await made.refusal(request_)
        assert isinstance(error, InvalidInput)
        assert [violation.field for violation in error.violations] == fields
