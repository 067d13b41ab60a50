"""How the next token is chosen."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.backend.sampling import RowState, choose
from services.generator.domain import Choice, Row, Sampling


def draw(logits: list[float], *, prompt: tuple[int, ...] = (0,), **sampling: object) -> Choice:
    row = Row(id=0, prompt=prompt, sampling=Sampling(**sampling), adapter_key=None)  # type: ignore[arg-type]
    return choose(torch.tensor([logits]), [RowState.of(row)])[0]


probabilities = st.lists(st.floats(0.01, 1), min_size=2, max_size=8).map(lambda ws: [w / sum(ws) for w in ws])


@given(probabilities, st.floats(0.05, 1.0), st.integers(0, 10_000))
def test_top_p_draws_from_the_smallest_set_of_that_mass(masses: list[float], top_p: float, seed: int) -> None:
    token = draw([math.log(mass) for mass in masses], temperature=1.0, top_p=top_p, seed=seed).token_id
    likelier = sum(mass for mass in masses if mass > masses[token])
    assert likelier < top_p + 1e-4


@given(probabilities, st.integers(1, 4), st.integers(0, 10_000))
def test_top_k_draws_from_the_k_likeliest(masses: list[float], top_k: int, seed: int) -> None:
    token = draw([math.log(mass) for mass in masses], temperature=2.0, top_k=top_k, seed=seed).token_id
    assert masses[token] >= sorted(masses, reverse=True)[:top_k][-1] - 1e-6


@given(probabilities)
def test_without_temperature_the_likeliest_token_is_taken(masses: list[float]) -> None:
    choice = draw([math.log(mass) for mass in masses])
    assert masses[choice.token_id] == pytest.approx(max(masses), rel=1e-5)
    assert choice.logprob == pytest.approx(math.log(masses[choice.token_id]), abs=1e-4)


def test_the_frequencies_follow_the_temperature() -> None:
    logits = [math.log(0.8), math.log(0.2)]
    share = sum(draw(logits, temperature=2.0, seed=seed).token_id for seed in range(600)) / 600
    assert share == pytest.approx(1 / 3, abs=0.06)


def test_a_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    assert draw([2.0, 1.5, -1.0], prompt=(0,), repetition_penalty=2.0).token_id == 1
    assert draw([-1.0, -1.5, -9.0], prompt=(0,), repetition_penalty=2.0).token_id == 1
    assert draw([2.0, 1.5, -1.0], prompt=(2,), repetition_penalty=2.0).token_id == 0


def test_a_penalised_token_keeps_its_own_logprob() -> None:
    choice = draw([2.0, 1.9], prompt=(0,), repetition_penalty=2.0)
    assert choice.logprob == pytest.approx(float(torch.tensor([2.0, 1.9]).log_softmax(0)[1]))


def test_tokens_already_generated_count_as_seen() -> None:
    state = RowState.of(Row(id=0, prompt=(1,), sampling=Sampling(repetition_penalty=2.0), adapter_key=None))
    logits = torch.tensor([[3.0, 0.1, 2.0]])
    assert [choose(logits, [state])[0].token_id for _ in range(2)] == [0, 2]
