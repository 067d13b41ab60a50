"""Attention of a step's works over their blocks of keys and values.

Works with equally many tokens are computed together as far as their lengths
allow, so decoding rows share one call whatever their number. Everything that
all layers need (which blocks, which masks) is made once for a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from services.generator.backend.kv import KVPool
from services.generator.domain import Work

_ALONE = 64
"""Works with at least this many tokens are computed one by one."""
_WASTE = 1.25
"""How much more than its works' own blocks a group may read for the sake of one shape."""


@dataclass(frozen=True, eq=False)
class Group:
    """Is one call's share of a step: `count` works of `tokens` tokens each, in neighbouring rows."""

    rows: slice
    count: int
    tokens: int
    table: Tensor | None
    """Blocks of all works, equally many each; None where the works read nothing but their own tokens."""
    mask: Tensor | None
    """Added to the scores; None is causal."""


def order(works: Sequence[Work], block_size: int) -> list[int]:
    """Returns the indices of the works in the order in which `groups` wants their tokens."""
    return sorted(range(len(works)), key=lambda i: (len(works[i].tokens), num_blocks(works[i], block_size)))


def num_blocks(work: Work, block_size: int) -> int:
    """Returns how many blocks a work reads."""
    return -(-(work.start + len(work.tokens)) // block_size)


def groups(works: Sequence[Work], pool: KVPool, *, device: torch.device, repeats: int) -> list[Group]:
    """Returns the groups of works that are in order; each KV head serves `repeats` query heads."""
    found: list[Group] = []
    batch: list[Work] = []
    total = first_row = 0
    for work in works:
        size = num_blocks(work, pool.block_size)
        if batch and (
            len(work.tokens) != len(batch[0].tokens)
            or len(work.tokens) >= _ALONE
            or (len(batch) + 1) * size > _WASTE * (total + size) + 8
        ):
            found.append(_group(batch, pool, first_row, device=device, repeats=repeats))
            first_row, batch, total = found[-1].rows.stop, [], 0
        batch.append(work)
        total += size
    if batch:
        found.append(_group(batch, pool, first_row, device=device, repeats=repeats))
    return found


def _group(batch: Sequence[Work], pool: KVPool, first_row: int, *, device: torch.device, repeats: int) -> Group:
    count, tokens = len(batch), len(batch[0].tokens)
    rows = slice(first_row, first_row + count * tokens)
    if count == 1 and batch[0].start == 0:
        return Group(rows, 1, tokens, None, None)
    width = max(num_blocks(work, pool.block_size) for work in batch)
    table: list[int] = []
    for work in batch:
        own = list(work.blocks[: num_blocks(work, pool.block_size)])
        table += own + own[:1] * (width - len(own))
    length = width * pool.block_size
    starts = torch.tensor([work.start for work in batch], device=device)
    last = starts.view(count, 1, 1) + torch.arange(tokens, device=device).view(1, tokens, 1)
    hidden = torch.arange(length, device=device) > last
    mask = torch.zeros(count, tokens, length, dtype=pool.dtype, device=device).masked_fill_(hidden, -torch.inf)
    mask = mask[0] if _is_alone(count, tokens) else mask.repeat(1, repeats, 1).unsqueeze(1)
    return Group(rows, count, tokens, torch.tensor(table, device=device), mask)


def _is_alone(count: int, tokens: int) -> bool:
    return count == 1 and tokens > 1


def attend(q: Tensor, kv: Tensor, *, pool: KVPool, layer: int, plan: Sequence[Group]) -> Tensor:
    """Returns the attention's output (T, kv_heads * repeats * head_dim).

    q is (T, kv_heads, repeats, head_dim) and kv, the step's own keys and
    values that have been stored already, (T, 2, kv_heads, head_dim).
    """
    if len(plan) == 1:
        return _attend(q, kv, pool, layer, plan[0])
    return torch.cat([_attend(q[group.rows], kv[group.rows], pool, layer, group) for group in plan])


def _attend(q: Tensor, kv: Tensor, pool: KVPool, layer: int, group: Group) -> Tensor:
    _, kv_heads, repeats, dim = q.shape
    if group.table is not None:
        kv = pool.read(layer, group.table).view(group.count, -1, 2, kv_heads, dim)
    if group.mask is None or _is_alone(group.count, group.tokens):
        # The KV heads stand as the batch, so that the query heads of one can share it without a copy.
        keys, values = kv.view(-1, 2, kv_heads, dim).permute(1, 2, 0, 3).unsqueeze(2).expand(-1, -1, repeats, -1, -1)
        out = scaled_dot_product_attention(
            q.permute(1, 2, 0, 3), keys, values, attn_mask=group.mask, is_causal=group.mask is None
        )
        return out.permute(2, 0, 1, 3).reshape(group.tokens, -1)
    # The query heads of one KV head stand as further queries.
    folded = q.view(group.count, group.tokens, kv_heads, repeats, dim).permute(0, 2, 3, 1, 4)
    keys, values = kv.permute(2, 0, 3, 1, 4)
    out = scaled_dot_product_attention(
        folded.reshape(group.count, kv_heads, repeats * group.tokens, dim), keys, values, attn_mask=group.mask
    )
    out = out.view(group.count, kv_heads, repeats, group.tokens, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(group.count * group.tokens, -1)
