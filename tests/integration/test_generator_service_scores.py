"""The generator over gRPC: scores, blends and samples of a tiny model."""

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tandem.errors import NotFound
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_hosting import Running, asking, running, tiny, write_files

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("generator"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(files: Path) -> AsyncIterator[Running]:
    async with running(tiny(files)) as started:
        yield started


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
