"""Chooses the next token of each sequence from its logits, and scores given tokens.

What a token is measured by (logprob, entropy, margin, alternatives) is taken
from the model's own distribution, or the blended one. The choice is made
after, in this order: repetition penalty, logit bias, temperature, top-k,
top-p, min-p; each filter sees what the one before has left, with its
probabilities scaled to a sum of 1. Of equally likely tokens the one with the
lower id counts as the likelier, everywhere.

On the CPU, NumPy sorts and searches about ten times faster than torch, and is
used for that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.generator.domain import Choice, Draw, Mixing, NotFinite, Sampling, TokenScore

_WIDTH = 64
"""Of how many of the likeliest tokens a filter's result is looked for before all are sorted."""
_SCORED_ROWS = 16
"""Rows scored at a time: what is computed on the way stays in the processor's cache."""
_FAINTEST = -200.0
"""Log of a share of the likeliest token's probability that is 0 in single precision."""
_FLOOR = -1e4
"""Least log-probability that a logarithmic blend reckons with: keeps a weighted sum finite."""
_COLDEST = 1e-6
_NUMPY_DEVICE = "cpu"


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """Returns the next token of each draw; logits is (B, V), the rows of each draw's works one after the other.

    B is the sum of len(draw.works). A draw's result depends on its own rows
    alone. Raises NotFinite where logits are NaN or infinite (a token may
    have a logit of minus infinity).
    """
    if not draws:
        return []
    rows, levels = _mixed(logits.float(), draws)
    measured = _Measured.of(rows)
    if broken := [i for i, finite in enumerate(measured.entropy.isfinite().tolist()) if not finite]:
        raise NotFinite([work for i in broken for work in draws[i].works])
    tokens = measured.likeliest.clone()
    special = [i for i, draw in enumerate(draws) if not _is_plain(draw.sampling)]
    if special:
        tokens[special] = _drawn(_at(rows, special), [draws[i] for i in special], [levels[i] for i in special])
    picked = measured.logprobs(tokens.unsqueeze(1)).squeeze(1)
    figures = torch.stack([picked, measured.entropy, measured.margin], dim=1).tolist()
    alternatives = _alternatives(rows, measured, [draw.num_alternatives for draw in draws])
    return [
        Choice(token, logprob, entropy, margin, told)
        for token, (logprob, entropy, margin), told in zip(tokens.tolist(), figures, alternatives, strict=True)
    ]


def score(logits: Tensor, targets: Sequence[int], *, works: Sequence[int] = ()) -> list[TokenScore]:
    """Returns the score of one target after each row of logits (N, V).

    Raises NotFinite where logits are NaN or infinite; `works` names the work
    of each row for that case.
    """
    wanted = torch.tensor(targets, dtype=torch.long, device=logits.device).unsqueeze(1)
    figures: list[list[float]] = []
    greedy: list[bool] = []
    for start in range(0, len(targets), _SCORED_ROWS):
        measured = _Measured.of(logits[start : start + _SCORED_ROWS].float())
        ids = wanted[start : start + _SCORED_ROWS]
        figures += torch.stack([measured.logprobs(ids).squeeze(1), measured.entropy], dim=1).tolist()
        greedy += (measured.likeliest == ids.squeeze(1)).tolist()
    if broken := [i for i, (_, entropy) in enumerate(figures) if not math.isfinite(entropy)]:
        raise NotFinite([works[i] for i in broken] if works else ())
    return [TokenScore(logprob, entropy, hit) for (logprob, entropy), hit in zip(figures, greedy, strict=True)]


@dataclass(frozen=True, eq=False)
class _Measured:
    """Holds what the rows (S, V) say before anything is done to them; all fields but rows and peak are (S,)."""

    rows: Tensor
    likeliest: Tensor
    peak: Tensor
    log_mass: Tensor
    entropy: Tensor
    margin: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> "_Measured":
        """Measures rows of logits or log-probabilities in one pass of exp, the one dear operation here."""
        likeliest = _likeliest(rows).unsqueeze(1)
        peak = rows.gather(1, likeliest)
        below = (rows - peak).clamp_(min=_FAINTEST)
        shares = below.exp()
        mass = shares.sum(dim=-1)
        entropy = mass.log() - torch.linalg.vecdot(shares, below) / mass
        second = shares.scatter_(1, likeliest, 0.0).amax(dim=-1)
        return cls(rows, likeliest.squeeze(1), peak, mass.log(), entropy.clamp_(min=0.0), (1.0 - second) / mass)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """Returns the logprobs of tokens (S, n); none is above 0, since the peak alone has a mass of 1."""
        return self.rows.gather(1, tokens) - self.peak - self.log_mass.unsqueeze(1)


def _is_plain(sampling: Sampling) -> bool:
    """Tells whether the likeliest token of the unmodified distribution is the choice."""
    return sampling.temperature == 0 and sampling.repetition_penalty == 1 and not sampling.logit_bias


def _mixed(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, list[float]]:
    """Returns one row for each draw, (S, V), and the level of each.

    A single prompt's row stays as it is, on level 0. A blend's row holds
    log-probabilities; its level, the mean logarithm of its prompts'
    normalisers, brings them back to where its prompts' logits lie.
    """
    if all(len(draw.works) == 1 for draw in draws):
        return logits, [0.0] * len(draws)
    rows, levels, start = [], [], 0
    for draw in draws:
        streams = logits[start : start + len(draw.works)]
        start += len(draw.works)
        if len(draw.works) == 1:
            rows.append(streams[0])
            levels.append(0.0)
            continue
        normaliser = streams.logsumexp(dim=-1, keepdim=True)
        weights = torch.tensor(draw.weights, dtype=torch.double).unsqueeze(1)
        logprobs = streams - normaliser
        if draw.mixing is Mixing.ARITHMETIC:
            shares = (weights / weights.sum()).log().to(logprobs)
            rows.append((logprobs + shares).logsumexp(dim=0))
        else:
            rows.append((logprobs.clamp_(min=_FLOOR) * weights.to(logprobs)).sum(dim=0))
        levels.append(float(normaliser.double().mean()))
    return torch.stack(rows), levels


def _alternatives(rows: Tensor, measured: _Measured, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """Returns the likeliest tokens of the rows that ask for some, with their logprobs."""
    told: list[tuple[tuple[int, float], ...]] = [()] * len(counts)
    asking = [i for i, count in enumerate(counts) if count]
    if not asking:
        return told
    least = _at(rows, asking).topk(min(max(counts), rows.shape[1]), dim=-1).values
    for place, i in enumerate(asking):
        # Of equals topk takes any: all that reach the last value are candidates, in the order of their ids.
        ids = (rows[i] >= least[place, : counts[i]][-1]).nonzero().squeeze(1)
        values, order = rows[i, ids].sort(descending=True, stable=True)
        logprobs = values[: counts[i]] - measured.peak[i] - measured.log_mass[i]
        told[i] = tuple(zip(ids[order][: counts[i]].tolist(), logprobs.tolist(), strict=True))
    return told


def _drawn(rows: Tensor, draws: Sequence[Draw], levels: Sequence[float]) -> Tensor:
    """Returns the tokens (S,) of draws that are not plain; changes the rows (S, V)."""
    _penalise(rows, draws, levels)
    _shift(rows, draws)
    tokens = torch.empty(len(draws), dtype=torch.long, device=rows.device)
    cold = [i for i, draw in enumerate(draws) if draw.sampling.temperature == 0]
    if cold:
        tokens[cold] = _likeliest(_at(rows, cold))
    for filtered in (False, True):
        warm = [i for i, draw in enumerate(draws) if draw.sampling.temperature and _filters(draw.sampling) is filtered]
        if not warm:
            continue
        samplings = [draws[i].sampling for i in warm]
        chances = _column([chance(draws[i].sampling.seed or 0, draws[i].position) for i in warm], rows)
        scaled = _at(rows, warm)
        # The greatest logit is taken off first, so that no temperature overflows.
        scaled.sub_(scaled.amax(dim=-1, keepdim=True))
        scaled.div_(_column([max(_COLDEST, sampling.temperature) for sampling in samplings], rows))
        if filtered:
            tokens[warm] = _filtered(scaled, samplings, chances)
        else:
            edges = scaled.exp_().cumsum(dim=-1)
            tokens[warm] = _pick(edges, chances, total=edges[:, -1:]).squeeze(1)
    return tokens


def _filters(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _penalise(rows: Tensor, draws: Sequence[Draw], levels: Sequence[float]) -> None:
    """Divides positive logits of tokens in the history and multiplies negative ones (arXiv 1909.05858, section 4.1).

    Log-probabilities of a blend would all be negative, and those of likely
    tokens hardly changed by a factor: they are put on their level for it.
    """
    asking = [i for i, draw in enumerate(draws) if draw.sampling.repetition_penalty != 1]
    if not asking:
        return
    seen = [np.fromiter(draws[i].history, np.int64) for i in asking]
    counts = torch.tensor([len(tokens) for tokens in seen])
    row = torch.tensor(asking).repeat_interleave(counts).to(rows.device)
    column = torch.from_numpy(np.concatenate(seen)).to(rows.device)
    penalty = torch.tensor([draws[i].sampling.repetition_penalty for i in asking]).repeat_interleave(counts).to(rows)
    level = torch.tensor([levels[i] for i in asking]).repeat_interleave(counts).to(rows)
    logits = rows[row, column] + level
    # A token that was seen twice is written twice, with the same value.
    rows[row, column] = (torch.where(logits > 0, logits / penalty, logits * penalty) - level).nan_to_num_()


def _shift(rows: Tensor, draws: Sequence[Draw]) -> None:
    """Adds the logit bias; ids beyond the vocabulary cannot be drawn and are passed over."""
    places = [
        (row, token, shift)
        for row, draw in enumerate(draws)
        for token, shift in draw.sampling.logit_bias
        if 0 <= token < rows.shape[1]
    ]
    if places:
        row, column, shifts = zip(*places, strict=True)
        index = (torch.tensor(row, device=rows.device), torch.tensor(column, device=rows.device))
        rows.index_put_(index, torch.tensor(shifts).to(rows), accumulate=True)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _filtered(scaled: Tensor, samplings: Sequence[Sampling], chances: Tensor) -> Tensor:
    """Draws from what top-k, top-p and min-p leave of each row; scaled (S, V) has its greatest value at 0.

    All three keep a beginning of the tokens ordered by likelihood, mostly a
    short one: it is looked for among the likeliest few, and only rows where
    it may reach further are sorted. Values are enough for both; the id of
    the value that was drawn is looked up at the end.
    """
    masses = torch.ones(len(samplings), 1, device=scaled.device)
    if any(sampling.top_p < 1 and not sampling.top_k for sampling in samplings):
        masses = scaled.exp().sum(dim=-1, keepdim=True)
    width = min(_WIDTH, scaled.shape[1])
    values, places, within = _placed(scaled.topk(width, dim=-1).values, samplings, masses, chances)
    wide = [i for i, fits in enumerate(within) if not fits or samplings[i].top_k > width]
    if wide:
        falling = _falling(_at(scaled, wide))
        values[wide], places[wide], _ = _placed(falling, [samplings[i] for i in wide], masses[wide], chances[wide])
    hits = _where_equal(scaled, values)
    first = torch.searchsorted(hits, torch.arange(len(scaled), device=scaled.device) * scaled.shape[1])
    return hits[first + places] % scaled.shape[1]


def _placed(
    values: Tensor, samplings: Sequence[Sampling], masses: Tensor, chances: Tensor
) -> tuple[Tensor, Tensor, list[bool]]:
    """Draws among values (S, C) in falling order.

    Returns the value drawn (S, 1), its place among its equals (S,), and
    whether the filters keep less than the candidates.
    """
    edges = values.exp().cumsum(dim=-1)
    width = values.shape[1]
    top_k = _column([min(sampling.top_k or width, width) for sampling in samplings], masses).long()
    limited = _column([float(sampling.top_k > 0) for sampling in samplings], masses) > 0
    top_p = _column([sampling.top_p if sampling.top_p < 1 else math.inf for sampling in samplings], masses)
    min_p = _column([sampling.min_p for sampling in samplings], masses)
    left = torch.where(limited, edges.gather(1, top_k - 1), masses)
    by_mass = torch.searchsorted(edges, top_p * left) + 1
    by_share = torch.searchsorted(values.neg(), min_p.log().neg(), right=True)
    count = torch.minimum(torch.minimum(top_k, by_mass), by_share).clamp_(min=1)
    place = _pick(edges, chances, total=edges.gather(1, count - 1))
    drawn = values.gather(1, place)
    num_greater = torch.searchsorted(values.neg(), drawn.neg())
    return drawn, (place - num_greater).squeeze(1), (count < width).squeeze(1).tolist()


def _where_equal(rows: Tensor, values: Tensor) -> Tensor:
    """Returns the places, in all rows (S, V) written one after the other, that equal their row's value (S, 1)."""
    if rows.device.type != _NUMPY_DEVICE:
        return (rows == values).view(-1).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(rows.numpy() == values.numpy()))


def _falling(rows: Tensor) -> Tensor:
    """Returns the values of each row in falling order."""
    if rows.device.type != _NUMPY_DEVICE:
        return rows.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=-1)).flip(-1)


def _likeliest(rows: Tensor) -> Tensor:
    """Returns the place of the greatest value of each row, the first of equals."""
    return rows.argmax(dim=-1) if rows.device.type != _NUMPY_DEVICE else torch.from_numpy(rows.numpy().argmax(axis=-1))


def _at(rows: Tensor, indices: Sequence[int]) -> Tensor:
    return rows.index_select(0, torch.tensor(indices, device=rows.device))


def _pick(edges: Tensor, chances: Tensor, *, total: Tensor) -> Tensor:
    """Returns where in cumulated shares (S, C), up to a total (S, 1), a chance (S, 1) from 0 up to 1 falls, (S, 1)."""
    below_total = total.nextafter(torch.zeros_like(total))
    return torch.searchsorted(edges, torch.minimum(chances * total, below_total), right=True)


def chance(seed: int, position: int) -> float:
    """Returns the number from 0 up to 1 that decides a draw: SplitMix64 of seed and position, without any state."""
    mixed = _splitmix(_splitmix(seed) ^ position)
    return (mixed >> 11) / 2**53


def _splitmix(value: int) -> int:
    """Returns the output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) for a state."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)
