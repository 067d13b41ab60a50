"""How the distributions of several prompts become one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.generator.backend.sampling import chance, choose
from services.generator.domain import Choice, Draw, Mixing, Sampling
from tests.fakes.generator_draws import by_transformers, draw, edges_of, row, samplings


class TestBlends:
    @given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(0, 1000))
    def test_arithmetic_is_the_weighted_mean_of_the_probabilities(self, weights: list[float], seed: int) -> None:
        streams = torch.stack([row(seed + i, size=50) for i in range(len(weights))])
        choice = choose(streams, [draw(works=tuple(range(len(weights))), weights=tuple(weights), num_alternatives=20)])
        shares = torch.tensor(weights, dtype=torch.double) / sum(weights)
        expected = (streams.double().softmax(-1) * shares.unsqueeze(1)).sum(0)
        self.agrees(choice[0], expected.log())

    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=5), st.integers(0, 1000))
    def test_logarithmic_is_the_weighted_sum_of_the_logprobs(self, weights: list[float], seed: int) -> None:
        streams = torch.stack([row(seed + i, size=50) for i in range(len(weights))])
        works = tuple(range(len(weights)))
        blend = draw(works=works, weights=tuple(weights), mixing=Mixing.LOGARITHMIC, num_alternatives=20)
        expected = (streams.double().log_softmax(-1) * torch.tensor(weights).double().unsqueeze(1)).sum(0)
        self.agrees(choose(streams, [blend])[0], expected.log_softmax(-1))

    @staticmethod
    def agrees(choice: Choice, logprobs: Tensor) -> None:
        assert float(logprobs[choice.token_id]) == pytest.approx(float(logprobs.max()), abs=1e-3)
        assert choice.logprob == pytest.approx(float(logprobs.max()), abs=1e-3)
        assert choice.entropy == pytest.approx(float(torch.special.entr(logprobs.exp()).sum()), abs=1e-3)
        for token, logprob in choice.alternatives:
            assert logprob == pytest.approx(float(logprobs[token]), abs=2e-3)

    @pytest.mark.parametrize("mixing", Mixing)
    @given(st.integers(0, 200), samplings)
    def test_two_equal_prompts_are_one(self, mixing: Mixing, seed: int, sampling: Sampling) -> None:
        logits, history = row(seed, size=300), tuple(range(0, 300, 3))
        single = Draw(sequence=0, works=(0,), sampling=sampling, history=history, position=3)
        double = Draw(
            sequence=0,
            works=(0, 1),
            weights=(3.0, 7.0) if mixing is Mixing.ARITHMETIC else (0.3, 0.7),
            mixing=mixing,
            sampling=sampling,
            history=history,
            position=3,
        )
        alone, blended = choose(logits.unsqueeze(0), [single])[0], choose(logits.expand(2, -1), [double])[0]
        edges, _ = edges_of(by_transformers(logits, history, sampling), sampling)
        if float((edges - chance(sampling.seed or 0, 3)).abs().min()) > 1e-4:
            assert blended.token_id == alone.token_id
            assert blended.logprob == pytest.approx(alone.logprob, abs=1e-4)

    def test_a_penalty_weighs_on_a_blend_as_on_a_single_prompt(self) -> None:
        logits = torch.tensor([[9.0, 8.0, 1.0], [9.0, 8.0, 1.0]])
        blend = draw(works=(0, 1), weights=(1.0, 1.0), history=(0,), repetition_penalty=1.3)
        assert choose(logits, [blend])[0].token_id == 1

    def test_blends_and_single_prompts_share_a_step(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0], [3.0, 0.0, 0.0]])
        draws = [draw(0), draw(1, works=(1, 2), weights=(1.0, 3.0)), draw(2, works=(3,))]
        assert [choice.token_id for choice in choose(logits, draws)] == [1, 2, 0]

    def test_contrast_prefers_what_the_evidence_made_likelier(self) -> None:
        logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]])
        blend = draw(works=(0, 1), weights=(1.5, -0.5), mixing=Mixing.LOGARITHMIC)
        assert choose(logits, [blend])[0].token_id == 1

    @pytest.mark.parametrize("mixing", Mixing)
    @pytest.mark.parametrize("extreme", [1e4, 1e30, 3e38, math.inf])
    def test_extreme_logits_give_finite_measures(self, mixing: Mixing, extreme: float) -> None:
        logits = torch.tensor([[0.0, -extreme, 1.0], [-extreme, 0.0, 1.0]])
        weights = (10.0, 10.0) if mixing is Mixing.ARITHMETIC else (10.0, -10.0)
        for temperature in (0.0, 1.0):
            blend = draw(works=(0, 1), weights=weights, mixing=mixing, temperature=temperature, num_alternatives=3)
            choice = choose(logits, [blend])[0]
            assert all(math.isfinite(x) for x in (choice.logprob, choice.entropy, choice.margin))

    def test_weights_of_any_size_are_scaled(self) -> None:
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        for scale in (1e-30, 1.0, 1e30):
            choice = choose(logits, [draw(works=(0, 1), weights=(scale, scale))])[0]
            assert choice.logprob == pytest.approx(float(logits.softmax(-1).mean(0).max().log()), abs=1e-5)
