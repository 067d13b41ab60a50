"""How the repetition penalty and the bias bear on the next token."""

from typing import Any

import pytest
import torch

from services.generator.backend.sampling import choose
from tests.fakes.generator_draws import draw, one, row


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
