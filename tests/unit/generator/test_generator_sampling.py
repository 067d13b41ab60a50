"""How chance and the filters choose the next token."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.backend import sampling as module
from services.generator.backend.sampling import chance, choose
from services.generator.domain import Draw, Sampling
from tests.fakes.generator_draws import VOCABULARY, by_transformers, draw, edges_of, one, row, samplings


class TestAgainstTransformers:
    @given(st.lists(st.tuples(st.integers(0, 10_000), samplings, st.integers(0, 500)), min_size=1, max_size=5))
    def test_the_token_is_the_one_that_the_same_chance_picks_from_its_distribution(
        self, wishes: list[tuple[int, Sampling, int]]
    ) -> None:
        logits = torch.stack([row(seed) for seed, _, _ in wishes])
        histories = [[(seed * 7 + i) % VOCABULARY for i in range(40)] for seed, _, _ in wishes]
        draws = [
            Draw(sequence=i, works=(i,), sampling=sampling, history=histories[i], position=position)
            for i, (_, sampling, position) in enumerate(wishes)
        ]
        for i, choice in enumerate(choose(logits, draws)):
            _, sampling, position = wishes[i]
            expected = by_transformers(logits[i], histories[i], sampling)
            number = chance(sampling.seed or 0, position)
            edges, tokens = edges_of(expected, sampling)
            if float((edges - number).abs().min()) > 1e-5:
                assert choice.token_id == int(tokens[int((edges <= number).sum())])

    @pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 30.0])
    @pytest.mark.parametrize(
        "wishes", [{"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.05}, {"top_k": 700, "top_p": 0.8, "min_p": 0.01}]
    )
    def test_no_token_outside_its_set_is_ever_drawn_and_every_likely_one_is(
        self, scale: float, wishes: dict[str, Any]
    ) -> None:
        logits = row(3, size=400, scale=scale)
        expected = by_transformers(logits, [], Sampling(temperature=1.0, **wishes))
        draws = [draw(i, temperature=1.0, position=i, **wishes) for i in range(4000)]
        drawn = Counter(choice.token_id for choice in choose(logits.expand(4000, -1), draws))
        assert all(expected[token] > 0 for token in drawn)
        assert {int(i) for i in (expected > 0.005).nonzero()} <= set(drawn)


class TestTheChance:
    def test_the_frequencies_follow_the_probabilities(self) -> None:
        num_draws = 20_000
        logits = row(5, size=12, scale=1.0)
        expected = logits.double().softmax(-1) * num_draws
        draws = [draw(i, temperature=1.0, position=i, seed=11) for i in range(num_draws)]
        drawn = Counter(choice.token_id for choice in choose(logits.expand(num_draws, -1), draws))
        chi_square = sum((drawn[i] - float(mean)) ** 2 / float(mean) for i, mean in enumerate(expected))
        assert chi_square < 31.3, "beyond the 99.9th percentile at 11 degrees of freedom"

    def test_seeds_side_by_side_are_as_independent_as_positions(self) -> None:
        numbers = torch.tensor([[chance(seed, position) for position in range(100)] for seed in range(100)])
        assert abs(float(numbers.mean()) - 0.5) < 0.01
        for shifted in (numbers[1:] - numbers[:-1], numbers[:, 1:] - numbers[:, :-1]):
            assert abs(float(shifted.var()) - 1 / 6) < 0.01

    @given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10_000))
    def test_it_is_a_number_from_zero_up_to_one(self, seed: int, position: int) -> None:
        assert 0 <= chance(seed, position) < 1

    def test_it_stays_the_same_for_all_time(self) -> None:
        assert [round(chance(seed, position), 6) for seed, position in ((0, 0), (0, 1), (-1, 0))] == PINNED

    @given(st.integers(0, 1000), samplings, st.integers(1, 6), st.data())
    def test_a_draw_does_not_depend_on_its_batch_mates(
        self, seed: int, sampling: Sampling, num_mates: int, data: st.DataObject
    ) -> None:
        own = Draw(sequence=0, works=(0,), sampling=sampling, history=(1, 2, 3), position=4, num_alternatives=3)
        alone = choose(row(seed).unsqueeze(0), [own])[0]
        mates = [
            Draw(sequence=i, works=(i,), sampling=data.draw(samplings), history=(9,), position=i, num_alternatives=i)
            for i in range(1, num_mates + 1)
        ]
        logits = torch.stack([row(seed), *(row(seed + i) for i in range(1, num_mates + 1))])
        together = choose(logits, [own, *mates])[0]
        assert together.token_id == alone.token_id
        assert together.logprob == pytest.approx(alone.logprob, abs=1e-5)
        assert [token for token, _ in together.alternatives] == [token for token, _ in alone.alternatives]

    def test_of_a_flat_distribution_any_token_may_come_and_no_other(self) -> None:
        draws = [draw(i, temperature=1.0, top_p=0.5, position=i) for i in range(3000)]
        drawn = {choice.token_id for choice in choose(torch.zeros(3000, 3000), draws)}
        assert max(drawn) < 1500, "of equals the lower ids are the likelier ones"
        assert len(drawn) > 1000

    def test_a_filter_that_keeps_one_of_several_equals_keeps_the_lowest_id(self) -> None:
        logits = torch.zeros(3000)
        logits[[7, 90, 2000]] = 5.0
        for position in range(50):
            assert one(logits, temperature=1.0, top_k=1, position=position).token_id == 7
            assert one(logits, temperature=1.0, top_p=0.001, position=position).token_id == 7
            assert one(logits, temperature=1.0, top_k=2, position=position).token_id in (7, 90)

    @pytest.mark.parametrize("wishes", [{}, {"top_p": 0.999}, {"top_k": 3}])
    def test_the_greatest_chance_draws_the_last_token_that_can_be(
        self, wishes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "chance", lambda seed, position: 1 - 2**-53)
        assert one([1.0, 0.9, 0.8, -1000.0, -math.inf], temperature=1.0, **wishes).token_id == 2

    def test_tokens_on_the_very_border_of_min_p_are_kept(self) -> None:
        logits = torch.tensor([5.0, 0.0, 5.0, 5.0])
        drawn = {one(logits, temperature=1.0, min_p=1.0, position=position).token_id for position in range(50)}
        assert drawn == {0, 2, 3}

    @pytest.mark.parametrize("width", [1, 2, 8, 4999, 10_000])
    def test_how_many_candidates_are_looked_at_first_changes_nothing(
        self, width: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logits = torch.stack([row(i, scale=0.5 + i) for i in range(8)]).mul(2).round().div(2)
        draws = [draw(i, temperature=1.0, top_k=(0, 9)[i % 2], top_p=0.97, min_p=1e-4, position=i) for i in range(8)]
        usual = choose(logits, draws)
        monkeypatch.setattr(module, "_WIDTH", width)
        assert choose(logits, draws) == usual

    @given(st.lists(st.tuples(st.integers(0, 1000), samplings), min_size=1, max_size=5))
    def test_torch_alone_as_on_a_gpu_draws_the_same(self, wishes: list[tuple[int, Sampling]]) -> None:
        logits = torch.stack([row(seed).mul(4).round().div(4) for seed, _ in wishes])
        draws = [
            Draw(sequence=i, works=(i,), sampling=sampling, history=(1, 2, 3), position=i)
            for i, (_, sampling) in enumerate(wishes)
        ]
        usual = choose(logits, draws)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_NUMPY_DEVICE", "none")
            assert choose(logits, draws) == usual


PINNED = [0.652448, 0.034012, 0.366242]


class TestGreedy:
    def test_the_lowest_of_equals_is_taken(self) -> None:
        assert one([0.0, 2.0, 2.0]).token_id == 1

    @pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-6, 1e-3])
    def test_next_to_no_temperature_takes_the_likeliest(self, temperature: float) -> None:
        logits = row(2)
        for position in range(20):
            assert one(logits, temperature=temperature, position=position).token_id == int(logits.argmax())

    @given(st.integers(0, 1000), samplings)
    def test_a_single_candidate_is_the_likeliest(self, seed: int, sampling: Sampling) -> None:
        logits = row(seed)
        got = one(logits, temperature=sampling.temperature, top_k=1, seed=sampling.seed, top_p=sampling.top_p)
        assert got.token_id == int(logits.argmax())
