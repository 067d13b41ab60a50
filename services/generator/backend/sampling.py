"""Chooses the next token of each sequence from its logits, and scores given tokens.

What a token is measured by (logprob, entropy, margin, alternatives) is taken
from the model's own distribution, or the blended one. The choice is made
after, in this order: repetition penalty, logit bias, temperature, top-k,
top-p, min-p; each filter sees what the one before has left, with its
probabilities scaled to a sum of 1. Of equally likely tokens the one with the
lower id counts as the likelier, everywhere.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.generator.domain import Choice, Draw, Mixing, NotFinite, Sampling, TokenScore

_WIDTHS = (64, 1024)
"""Of how many of the likeliest tokens a filter's result is looked for before all are sorted."""
_SCORED_ROWS = 64
"""Rows scored at a time: bounds the memory that the intermediate results take."""
_FAINTEST = -200.0
"""Log of a share of the likeliest token's probability that is 0 in single precision."""
_FLOOR = -1e4
"""Least log-probability that a logarithmic blend reckons with: keeps a weighted sum finite."""
_COLDEST = 1e-6


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
    tokens = measured.likeliest.clone()
    special = [i for i, draw in enumerate(draws) if not _is_plain(draw.sampling)]
    if special:
        tokens[special] = _drawn(rows[special], [draws[i] for i in special], levels=[levels[i] for i in special])
    picked = measured.logprobs(tokens.unsqueeze(1)).squeeze(1)
    figures = torch.stack([picked, measured.entropy, measured.margin], dim=1).tolist()
    if broken := [i for i, (logprob, _, _) in enumerate(figures) if not math.isfinite(logprob)]:
        raise NotFinite([work for i in broken for work in draws[i].works])
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
        likeliest = rows.argmax(dim=-1, keepdim=True)
        peak = rows.gather(1, likeliest)
        below = (rows - peak).clamp_(min=_FAINTEST)
        shares = below.exp()
        mass = shares.sum(dim=-1)
        entropy = mass.log() - torch.linalg.vecdot(shares, below) / mass
        second = shares.scatter_(1, likeliest, 0.0).amax(dim=-1)
        return cls(rows, likeliest.squeeze(1), peak, mass.log(), entropy.clamp_(min=0.0), (1.0 - second) / mass)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """Returns the logprobs of tokens (S, n); rounding leaves none above 0."""
        return (self.rows.gather(1, tokens) - self.peak - self.log_mass.unsqueeze(1)).clamp_(max=0.0)


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
    values, ids = _ordered(rows[asking], width=max(_WIDTHS[0], *counts))
    for place, i in enumerate(asking):
        row_values, row_ids = values[place], ids[place]
        if row_values[counts[i] - 1 : counts[i]].equal(row_values[-1:]):
            # The last one asked for may have equals beyond the candidates.
            row_values, row_ids = (found[0] for found in _ordered(rows[i : i + 1], width=rows.shape[1]))
        logprobs = (row_values[: counts[i]] - measured.peak[i] - measured.log_mass[i]).clamp_(max=0.0)
        told[i] = tuple(zip(row_ids[: counts[i]].tolist(), logprobs.tolist(), strict=True))
    return told


def _drawn(rows: Tensor, draws: Sequence[Draw], *, levels: Sequence[float]) -> Tensor:
    """Returns the tokens (S,) of draws that are not plain; changes the rows (S, V)."""
    _penalise(rows, draws, levels)
    _shift(rows, draws)
    tokens = rows.argmax(dim=-1)
    warm = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not warm:
        return tokens
    temperatures = _column([max(_COLDEST, draws[i].sampling.temperature) for i in warm], rows)
    # The greatest logit is taken off first, so that no temperature overflows.
    scaled = (rows[warm] - rows[warm].amax(dim=-1, keepdim=True)).div_(temperatures)
    samplings = [draws[i].sampling for i in warm]
    chances = _column([chance(draws[i].sampling.seed or 0, draws[i].position) for i in warm], rows)
    free = [i for i, sampling in enumerate(samplings) if not _filters(sampling)]
    held = [i for i, sampling in enumerate(samplings) if _filters(sampling)]
    picked = torch.empty(len(warm), dtype=torch.long, device=rows.device)
    if free:
        picked[free] = _pick(scaled[free].exp_(), chances[free])
    if held:
        picked[held] = _filtered(scaled[held], [samplings[i] for i in held], chances[held])
    tokens[warm] = picked
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
    seen = [set(draws[i].history) for i in asking]
    counts = torch.tensor([len(tokens) for tokens in seen])
    row = torch.tensor(asking).repeat_interleave(counts).to(rows.device)
    column = torch.cat([_ids(tokens) for tokens in seen]).to(rows.device)
    penalty = torch.tensor([draws[i].sampling.repetition_penalty for i in asking]).repeat_interleave(counts).to(rows)
    level = torch.tensor([levels[i] for i in asking]).repeat_interleave(counts).to(rows)
    logits = rows[row, column] + level
    rows[row, column] = torch.where(logits > 0, logits / penalty, logits * penalty) - level


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
        index = (_ids(row).to(rows.device), _ids(column).to(rows.device))
        rows.index_put_(index, torch.tensor(shifts).to(rows), accumulate=True)


def _ids(tokens: Iterable[int]) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.long)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _filtered(scaled: Tensor, samplings: Sequence[Sampling], chances: Tensor) -> Tensor:
    """Draws from what top-k, top-p and min-p leave of each row; scaled (S, V) has its greatest value at 0.

    All three keep a beginning of the tokens ordered by likelihood, mostly a
    short one: it is looked for among the likeliest few, and only rows where
    it may reach further are looked at again.
    """
    masses = scaled.exp().sum(dim=-1, keepdim=True)
    picked = torch.empty(len(samplings), dtype=torch.long, device=scaled.device)
    open_rows = list(range(len(samplings)))
    for width in (*_WIDTHS, scaled.shape[1]):
        values, ids = _ordered(scaled[open_rows], width=width)
        kept = _kept(values, [samplings[i] for i in open_rows], masses[open_rows])
        last = values.gather(1, kept.sum(dim=-1, keepdim=True) - 1)
        # Which of several equals at the end are among the candidates is arbitrary.
        sure = (last > values[:, -1:]).squeeze(1).tolist()
        # In the order of their ids, so that the same chance draws the same token whatever the width.
        ids, order = ids.sort(dim=-1)
        shares = (values.exp() * kept).gather(1, order)
        tokens = ids.gather(1, _pick(shares, chances[open_rows]).unsqueeze(1)).squeeze(1)
        picked[open_rows] = tokens
        open_rows = [i for i, done in zip(open_rows, sure, strict=True) if not done or samplings[i].top_k > width]
        if not open_rows:
            break
    return picked


def _ordered(rows: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Returns the `width` greatest values of each row in falling order, lower ids first among equals, and their ids."""
    if width >= rows.shape[1]:
        values, ids = rows.sort(dim=-1, descending=True, stable=True)
        return values, ids
    ids = rows.topk(width, dim=-1).indices.sort(dim=-1).values
    values, order = rows.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _kept(values: Tensor, samplings: Sequence[Sampling], masses: Tensor) -> Tensor:
    """Tells which of the candidates (S, C), likeliest first, the filters keep: a beginning of each row."""
    vocabulary = torch.iinfo(torch.int32).max
    top_k = _column([sampling.top_k or vocabulary for sampling in samplings], masses)
    top_p = _column([sampling.top_p if sampling.top_p < 1 else float("inf") for sampling in samplings], masses)
    min_p = _column([sampling.min_p for sampling in samplings], masses)
    kept = torch.arange(values.shape[1], device=values.device) < top_k
    shares = values.exp()
    left = torch.where(top_k < vocabulary, (shares * kept).sum(dim=-1, keepdim=True), masses)
    kept &= shares.cumsum(dim=-1) - shares < top_p * left
    kept &= values >= min_p.log()
    kept[:, 0] = True
    return kept


def _pick(shares: Tensor, chances: Tensor) -> Tensor:
    """Returns for each row (S, C) of shares of any sum the index where the chance (S, 1) of 0 to 1 falls."""
    edges = shares.cumsum(dim=-1)
    total = edges[:, -1:]
    below_total = total.nextafter(torch.zeros_like(total))
    places = torch.searchsorted(edges, torch.minimum(chances * total, below_total), right=True)
    return places.squeeze(1).clamp_(max=shares.shape[1] - 1)


def chance(seed: int, position: int) -> float:
    """Returns the number from 0 up to 1 that decides a draw: SplitMix64 of seed and position, without any state."""
    mixed = _splitmix(_splitmix(seed % 2**64) ^ position)
    return (mixed >> 11) / 2**53


def _splitmix(value: int) -> int:
    """Returns the output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) for a state."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)
