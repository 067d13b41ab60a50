"""Chooses the next token of each row from its logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.generator.domain import Choice, Row, Sampling


@dataclass(eq=False)
class RowState:
    """Is a running row: what was asked, its last token, and what its sampling remembers."""

    row: Row
    last: int = -1
    position: int = 0
    seen: Tensor | None = None
    """Token ids of prompt and output, kept where a repetition penalty needs them."""
    generator: torch.Generator | None = None
    """The row's own source of chance, so that its batch mates do not change what it draws."""

    @classmethod
    def of(cls, row: Row) -> "RowState":
        """Returns the state of a row that has read its prompt."""
        state = cls(row=row, position=len(row.prompt))
        if row.sampling.repetition_penalty != 1.0:
            state.seen = torch.unique(torch.tensor(row.prompt))
        if row.sampling.temperature > 0:
            state.generator = torch.Generator()
            if row.sampling.seed is None:
                state.generator.seed()
            else:
                state.generator.manual_seed(row.sampling.seed)
        return state


def choose(logits: Tensor, states: Sequence[RowState]) -> list[Choice]:
    """Returns the next token of each row; logits is (B, V). Updates the states."""
    logits = logits.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    likeliest = logits.argmax(dim=-1)
    tokens = likeliest.tolist()
    for index, state in enumerate(states):
        sampling = state.row.sampling
        if sampling.temperature > 0 or sampling.repetition_penalty != 1.0:
            tokens[index] = _draw(logits[index].cpu(), sampling, state)
    picked = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    for state, token in zip(states, tokens, strict=True):
        state.last = token
        if state.seen is not None:
            state.seen = torch.unique(torch.cat([state.seen, torch.tensor([token])]))
    # Rounding can leave the logprob of a certain token a hair above 0.
    return [Choice(token, min(0.0, logprob)) for token, logprob in zip(tokens, picked, strict=True)]


def _draw(logits: Tensor, sampling: Sampling, state: RowState) -> int:
    if state.seen is not None:
        logits = logits.clone()
        penalty, seen = sampling.repetition_penalty, logits[state.seen]
        logits[state.seen] = torch.where(seen > 0, seen / penalty, seen * penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    # The largest logit is taken off first, so that no temperature overflows.
    scaled = (logits.double() - logits.max()) / sampling.temperature
    if sampling.top_k:
        kept = scaled.topk(min(sampling.top_k, scaled.numel())).values[-1]
        scaled = scaled.masked_fill(scaled < kept, -torch.inf)
    probabilities = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return int(torch.multinomial(probabilities, 1, generator=state.generator))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of tokens with a mass of at least top_p (arXiv 1904.09751)."""
    ordered, order = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    ordered[0] = ordered[0].clamp(min=torch.finfo(ordered.dtype).tiny)
    return torch.zeros_like(probabilities).scatter(0, order, ordered)
