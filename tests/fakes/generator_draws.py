"""Logits and draws to sample from, and the distribution that transformers would sample from."""

from collections.abc import Sequence
from typing import Any

import torch
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

from services.generator.backend.sampling import choose
from services.generator.domain import Choice, Draw, Mixing, Sampling

VOCABULARY = 5000


def row(seed: int, *, size: int = VOCABULARY, scale: float = 3.0) -> Tensor:
    """Returns random logits (V,), the same for the same seed."""
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
    """Returns a draw from the work of the same index, seeded unless told otherwise."""
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
    """Returns the token chosen from logits (V,)."""
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
