"""How the next token is chosen, and what it is measured by."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.generator.backend import sampling as module
from services.generator.backend.sampling import chance, choose, score
from services.generator.domain import Choice, Draw, Mixing, NotFinite, Sampling

VOCABULARY = 5000


def row(seed: int, *, size: int = VOCABULARY, scale: float = 3.0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale


def draw(
    index: int = 0,
    *,
    history: Sequence[int] = (),
    position: int = 0,
    num_alternatives: int = 0,
    works: tuple[int, ...] | None = None,
    weights: tuple[float, ...] = (1.0,),
    mixing: Mixing = Mixing.ARITHMETIC,
    **sampling: Any,
) -> Draw:
    return Draw(
        sequence=index,
        works=works or (index,),
        weights=weights,
        mixing=mixing,
        sampling=Sampling(**{"seed": 1, **sampling}),
        history=history,
        position=position,
        num_alternatives=num_alternatives,
    )


def one(logits: Tensor | list[float], **wishes: Any) -> Choice:
    return choose(torch.as_tensor(logits).unsqueeze(0), [draw(**wishes)])[0]


def by_transformers(logits: Tensor, history: Sequence[int], sampling: Sampling) -> Tensor:
    """Returns the probabilities (V,) that transformers samples from, in its own order of the filters."""
    steps: list[Any] = []
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    scores = LogitsProcessorList(steps)(torch.tensor([list(history)]), logits.unsqueeze(0).clone())
    return scores[0].double().softmax(-1)


def edges_of(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Returns the cumulated probabilities, and the tokens in that order: by likelihood where there is a filter."""
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        probabilities, tokens = probabilities.sort(descending=True, stable=True)
        return probabilities.cumsum(0), tokens
    return probabilities.cumsum(0), torch.arange(len(probabilities))


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.2, 2.0),
    top_k=st.sampled_from([0, 0, 1, 5, 63, 64, 65, 1000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.1, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    seed=st.integers(-(2**63), 2**63 - 1),
)


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


class TestPenaltyAndBias:
    def test_the_penalty_divides_positive_and_multiplies_negative_logits(self) -> None:
        assert one([2.0, 1.5, -1.0], history=(0,), repetition_penalty=2.0).token_id == 1
        assert one([-1.0, -1.5, -9.0], history=(0,), repetition_penalty=2.0).token_id == 1
        assert one([2.0, 1.5, -1.0], history=(2, 2, 2), repetition_penalty=2.0).token_id == 0
        assert one([2.0, 1.5, -1.0], history=(), repetition_penalty=2.0).token_id == 0

    def test_a_token_seen_twice_is_penalised_once(self) -> None:
        assert one([2.0, 0.9], history=(0, 0, 0), repetition_penalty=2.0).token_id == 0

    def test_each_row_has_its_own_penalty(self) -> None:
        logits = torch.tensor([[2.0, 1.5], [2.0, 1.5], [2.0, 1.5]])
        draws = [
            draw(0, history=(0,), repetition_penalty=2.0),
            draw(1, history=(0,)),
            draw(2, history=(0,), repetition_penalty=1.1),
        ]
        assert [choice.token_id for choice in choose(logits, draws)] == [1, 0, 0]

    @pytest.mark.parametrize("wishes", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
    def test_a_penalty_may_take_logits_out_of_the_range_of_numbers(self, wishes: dict[str, Any]) -> None:
        assert one([3e38, -3e38, 0.0], history=(0, 1), repetition_penalty=0.5, **wishes).token_id == 0
        assert one([3e38, -3e38, 0.0], history=(0, 1), repetition_penalty=2.0, **wishes).token_id == 0

    def test_bias_can_force_and_forbid(self) -> None:
        assert one([2.0, 1.5, -1.0], logit_bias=((2, 100.0),)).token_id == 2
        assert one([2.0, 1.5, -1.0], logit_bias=((0, -100.0),)).token_id == 1
        for position in range(50):
            warm = one([2.0, 1.5, -1.0], temperature=2.0, logit_bias=((0, -100.0), (1, -100.0)), position=position)
            assert warm.token_id == 2

    def test_bias_comes_after_the_penalty(self) -> None:
        # 4 / 2 - 1 = 1 is less than 1.2; (4 - 1) / 2 = 1.5 would be more.
        assert one([4.0, 1.2], history=(0,), repetition_penalty=2.0, logit_bias=((0, -1.0),)).token_id == 1

    def test_bias_on_a_token_that_does_not_exist_is_passed_over(self) -> None:
        logits = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        draws = [draw(0, logit_bias=((2, 100.0), (-1, 100.0), (-2, -100.0))), draw(1)]
        assert [choice.token_id for choice in choose(logits, draws)] == [0, 1]

    def test_neither_changes_what_the_token_is_measured_by(self) -> None:
        logits = torch.tensor([2.0, 1.9, 0.0])
        plain = one(logits)
        choice = one(logits, history=(0,), repetition_penalty=2.0, logit_bias=((2, -3.0),), num_alternatives=1)
        assert choice.token_id == 1
        assert choice.logprob == pytest.approx(float(logits.log_softmax(0)[1]))
        assert (choice.entropy, choice.margin) == (plain.entropy, plain.margin)
        assert choice.alternatives == ((0, pytest.approx(plain.logprob)),)

    def test_the_logits_of_the_caller_stay_as_they_are(self) -> None:
        logits = row(1).unsqueeze(0)
        before = logits.clone()
        choose(logits, [draw(history=(1, 2), repetition_penalty=1.5, logit_bias=((3, 1.0),), temperature=1.0, top_k=5)])
        assert logits.equal(before)


class TestMeasures:
    @given(st.integers(0, 1000), st.floats(0.01, 50.0))
    def test_they_are_those_of_the_plain_distribution(self, seed: int, scale: float) -> None:
        logits = row(seed, scale=scale)
        choice = one(logits, temperature=1.0, num_alternatives=20, top_p=0.9)
        logprobs = logits.double().log_softmax(-1)
        best = logprobs.exp().topk(2).values
        assert choice.logprob == pytest.approx(float(logprobs[choice.token_id]), abs=1e-4)
        assert choice.entropy == pytest.approx(float(torch.special.entr(logprobs.exp()).sum()), abs=1e-4)
        assert choice.margin == pytest.approx(float(best[0] - best[1]), abs=1e-5)
        assert [token for token, _ in choice.alternatives] == logprobs.topk(20).indices.tolist()
        assert [lp for _, lp in choice.alternatives] == pytest.approx(logprobs.topk(20).values.tolist(), abs=1e-4)

    def test_a_certain_token_has_logprob_zero_and_never_more(self) -> None:
        for seed in range(50):
            choice = one(torch.cat([row(seed) * 1e-3, torch.tensor([60.0])]), num_alternatives=1)
            assert choice.logprob <= 0
            assert choice.alternatives[0][1] <= 0
            assert choice.entropy >= 0
            assert (choice.logprob, choice.margin) == (pytest.approx(0, abs=1e-6), pytest.approx(1))

    def test_equals_have_no_margin_and_are_told_in_the_order_of_their_ids(self) -> None:
        choice = one(torch.zeros(3000), num_alternatives=20)
        assert choice.margin == 0
        assert choice.entropy == pytest.approx(math.log(3000), rel=1e-5)
        assert [token for token, _ in choice.alternatives] == list(range(20))

    def test_no_more_alternatives_are_told_than_there_are_tokens(self) -> None:
        assert [token for token, _ in one([1.0, 3.0, 2.0], num_alternatives=20).alternatives] == [1, 2, 0]

    def test_only_rows_that_ask_are_told_alternatives(self) -> None:
        draws = [draw(0), draw(1, num_alternatives=2), draw(2, num_alternatives=1)]
        assert [len(choice.alternatives) for choice in choose(torch.randn(3, 9), draws)] == [0, 2, 1]

    def test_half_precision_logits_are_measured_in_single(self) -> None:
        logits = row(4).bfloat16()
        assert one(logits).logprob == pytest.approx(one(logits.float()).logprob, abs=1e-6)

    def test_nothing_to_draw_is_no_fault(self) -> None:
        assert choose(torch.empty(0, 9), []) == []


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


class TestBrokenLogits:
    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    @pytest.mark.parametrize("place", [0, 2500, VOCABULARY - 1])
    @pytest.mark.parametrize(
        "wishes",
        [
            {},
            {"temperature": 1.0},
            {"temperature": 1.0, "top_p": 0.9},
            {"temperature": 1.0, "top_k": 1},
            {"repetition_penalty": 1.2, "history": (0, 2500)},
            {"num_alternatives": 5},
        ],
    )
    def test_they_raise_and_name_the_work(self, broken: float, place: int, wishes: dict[str, Any]) -> None:
        logits = torch.stack([row(1), row(2), row(3), row(4)])
        logits[1, place] = broken
        draws = [draw(0), draw(1, works=(7,), **wishes), draw(2, works=(8, 9), weights=(1.0, 1.0))]
        with pytest.raises(NotFinite) as caught:
            choose(logits, draws)
        assert caught.value.works == (7,)

    @pytest.mark.parametrize("mixing", Mixing)
    def test_a_blend_is_broken_with_one_of_its_prompts(self, mixing: Mixing) -> None:
        logits = torch.stack([row(1), row(2), row(3)])
        logits[2, 5] = math.nan
        with pytest.raises(NotFinite) as caught:
            choose(logits, [draw(0, works=(4,)), draw(1, works=(5, 6), weights=(0.5, 0.5), mixing=mixing)])
        assert caught.value.works == (5, 6)

    def test_a_row_of_nothing_but_minus_infinity_is_broken(self) -> None:
        with pytest.raises(ValueError):
            one([-math.inf, -math.inf])

    def test_a_token_that_cannot_be_is_no_fault_and_is_never_drawn(self) -> None:
        logits = torch.tensor([0.0, -math.inf, 1.0])
        for position in range(100):
            choice = one(logits, temperature=2.0, position=position, num_alternatives=2)
            assert choice.token_id != 1
            assert choice.entropy == pytest.approx(one([0.0, 1.0]).entropy, abs=1e-6)

    def test_scores_raise_and_name_the_work(self) -> None:
        logits = torch.stack([row(i) for i in range(200)])
        logits[150, 3] = math.nan
        with pytest.raises(NotFinite) as caught:
            score(logits, [0] * 200, works=[i // 10 for i in range(200)])
        assert caught.value.works == (15,)


class TestScores:
    def test_they_are_logprob_entropy_and_whether_the_target_was_the_likeliest(self) -> None:
        logits = torch.stack([row(i) for i in range(150)])
        targets = [int(line.argmax()) if i % 2 else i for i, line in enumerate(logits)]
        logprobs = logits.double().log_softmax(-1)
        scores = score(logits, targets)
        assert [one.greedy for one in scores] == [bool(i % 2) for i in range(150)]
        assert [one.logprob for one in scores] == pytest.approx(
            [float(line[target]) for line, target in zip(logprobs, targets, strict=True)], abs=1e-4
        )
        assert [one.entropy for one in scores] == pytest.approx(
            torch.special.entr(logprobs.exp()).sum(-1).tolist(), abs=1e-4
        )

    def test_a_greedy_target_scores_what_the_draw_of_it_measured(self) -> None:
        logits = row(9)
        choice = one(logits)
        scored = score(logits.unsqueeze(0), [choice.token_id])[0]
        assert (scored.logprob, scored.entropy, scored.greedy) == (choice.logprob, choice.entropy, True)

    def test_nothing_to_score_is_no_fault(self) -> None:
        assert score(torch.empty(0, 9), []) == []
