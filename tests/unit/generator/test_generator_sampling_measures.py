"""What a token is measured by, drawn or scored."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.backend.sampling import choose, score
from tests.fakes.generator_draws import draw, one, row


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
