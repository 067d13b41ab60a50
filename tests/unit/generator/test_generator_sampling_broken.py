"""Logits that are no finite numbers, and who is named for them."""

import math
from typing import Any

import pytest
import torch

from services.generator.backend.sampling import choose, score
from services.generator.domain import Mixing, NotFinite
from tests.fakes.generator_draws import VOCABULARY, draw, one, row


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
