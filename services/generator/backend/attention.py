"""Attention of a step's works over their blocks of keys and values.

Works with equally many tokens are computed together as far as their lengths
allow, so decoding rows share one call whatever their number. Everything that
all layers need (which blocks, which masks) is made once for a step.

Plain batched products and a softmax are used instead of torch's fused
attention: on a CPU that is 2 to 4 times as fast in bf16, because the query
heads of one KV head share a product, and a chunk's queries do not look at
what comes after them; only a few short streams are faster with it
(docs/log.md).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.backend.kv import KVPool
from services.generator.backend.lanes import Slab
from services.generator.domain import Work

_ALONE = 48
"""Works with at least this many tokens are computed one by one."""
_WASTE = 1.25
"""How much more than its works' own positions a group may read for the sake of one shape."""
_SLACK = 512
"""Positions that it may read beyond that: reading them takes less time than another call."""
_MAX_QUERIES = 128
"""Queries of a chunk that are computed at a time; more would look at more keys that are hidden from them."""
_FUSED = 4096
"""Up to so many positions times KV heads, decoding rows in bf16 are fastest by torch's fused attention: one call."""
_SCORE_BYTES = 4 * 1024 * 1024
"""How large the scores of a chunk's queries may get before fewer are taken at a time: they should stay in the cache."""
_ROUND = 16
"""Numbers of keys, and of a chunk's queries, are multiples of this: oneDNN makes and keeps a kernel for every shape."""


@dataclass(frozen=True, eq=False)
class Group:
    """Is one call's share of a step: `count` works of `tokens` tokens each, in neighbouring rows."""

    rows: slice
    count: int
    tokens: int
    table: Tensor
    """Blocks of all works, equally many each."""
    mask: Tensor
    """Added to the scores: (kv_heads * count, queries, keys), or, of a single chunk, for its own tokens only."""
    start: int
    """Positions before a single chunk."""


@dataclass(frozen=True, eq=False)
class LaneGroup:
    """Is the share of decoding works that have lanes in one slab, in the order of their lanes."""

    rows: slice
    slab: Slab
    places: Tensor
    """Where the slab stores the step's keys and values."""
    mask: Tensor
    """Added to the scores: (lanes * kv_heads, 1, positions)."""


def order(works: Sequence[Work], block_size: int, *, without: Collection[int] = ()) -> list[int]:
    """Returns the indices of the works, but for those that have lanes, in the order in which `groups` wants them."""
    rest = set(range(len(works))).difference(without)
    return sorted(rest, key=lambda i: (len(works[i].tokens), num_blocks(works[i], block_size)))


def num_blocks(work: Work, block_size: int) -> int:
    """Returns how many blocks a work reads."""
    return -(-(work.start + len(work.tokens)) // block_size)


def groups(works: Sequence[Work], slabs: Sequence[Slab], pool: KVPool, *, heads: int) -> list[Group | LaneGroup]:
    """Returns the groups of works: first those in the lanes of the slabs, then the others, which are in order."""
    found: list[Group | LaneGroup] = []
    row = 0
    for slab in slabs:
        found.append(_lane_group(slab, pool, row))
        row = found[-1].rows.stop
    for batch in _batches(works[row:], pool.block_size):
        found.append(_group(batch, pool, row, heads=heads))
        row = found[-1].rows.stop
    return found


def _lane_group(slab: Slab, pool: KVPool, first_row: int) -> LaneGroup:
    lengths = torch.tensor([length for _, length in slab.lanes])
    hidden = torch.arange(slab.capacity) >= lengths.unsqueeze(1)
    mask = _as_mask(hidden, pool.dtype).repeat_interleave(pool.kv_heads, dim=0).unsqueeze(1)
    return LaneGroup(slice(first_row, first_row + len(lengths)), slab, slab.places(), mask)


def _batches(works: Sequence[Work], block_size: int) -> list[list[Work]]:
    batches: list[list[Work]] = []
    total = 0
    for work in works:
        size = num_blocks(work, block_size)
        if not batches or not _fits(work, batches[-1], size=size, total=total, slack=_SLACK // block_size):
            batches.append([])
            total = 0
        batches[-1].append(work)
        total += size
    return batches


def _fits(work: Work, batch: Sequence[Work], *, size: int, total: int, slack: int) -> bool:
    """Tells whether a work of `size` blocks may join a batch whose works have no more each and `total` together."""
    tokens = len(work.tokens)
    alike = tokens == len(batch[0].tokens) and tokens < _ALONE
    return alike and (len(batch) + 1) * size <= _WASTE * (total + size) + slack


def _group(batch: Sequence[Work], pool: KVPool, first_row: int, *, heads: int) -> Group:
    count, tokens, start, device = len(batch), len(batch[0].tokens), batch[0].start, pool.device
    rows = slice(first_row, first_row + count * tokens)
    width = max(num_blocks(work, pool.block_size) for work in batch)
    table: list[int] = []
    for work in batch:
        own = list(work.blocks[: num_blocks(work, pool.block_size)])
        table += own + own[:1] * (width - len(own))
    blocks = torch.tensor(table, device=device)
    if count == 1 and tokens > 1:
        queries = _queries(tokens, width * pool.block_size, heads=heads, dtype=pool.dtype)
        keys = torch.arange(queries + _ROUND, device=device)
        hidden = keys > torch.arange(queries, device=device).unsqueeze(1)
        return Group(rows, 1, tokens, blocks, _as_mask(hidden, pool.dtype), start)
    starts = torch.tensor([work.start for work in batch], device=device)
    last = starts.view(count, 1, 1) + torch.arange(tokens, device=device).view(1, tokens, 1)
    hidden = torch.arange(width * pool.block_size, device=device) > last
    repeats = 1 if tokens == 1 else heads // pool.kv_heads
    return Group(rows, count, tokens, blocks, _as_mask(hidden.repeat(pool.kv_heads, repeats, 1), pool.dtype), start)


def _as_mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _queries(tokens: int, keys: int, *, heads: int, dtype: torch.dtype) -> int:
    """Returns how many queries of a chunk are computed at a time."""
    room = _SCORE_BYTES // (heads * keys * dtype.itemsize)
    return min(_rounded(tokens), _MAX_QUERIES, max(_ROUND, room // _ROUND * _ROUND))


def _rounded(number: int) -> int:
    return -(-number // _ROUND) * _ROUND


def attend(q: Tensor, kv: Tensor, *, pool: KVPool, layer: int, plan: Sequence[Group | LaneGroup], out: Tensor) -> None:
    """Writes the attention's output into out (T, kv_heads * repeats * head_dim).

    q is (T, kv_heads, repeats, head_dim), in fp32, turned and scaled already;
    kv (T, 2 * kv_heads, head_dim) has been stored in the pool.
    """
    for group in plan:
        rows = out[group.rows].view(-1, *q.shape[1:])
        if isinstance(group, LaneGroup):
            _attend_lanes(q[group.rows], kv[group.rows], layer, group, rows)
        elif group.count == 1 and group.tokens > 1:
            _attend_chunk(q[group.rows], pool, layer, group, rows)
        else:
            _attend_works(q[group.rows], pool, layer, group, rows)


def _attend_lanes(q: Tensor, kv: Tensor, layer: int, group: LaneGroup, out: Tensor) -> None:
    group.slab.store(layer, group.places, kv)
    keys, values = group.slab.read(layer)
    count, kv_heads, repeats, dim = q.shape
    if keys.dtype == torch.bfloat16 and len(keys) * keys.shape[1] <= _FUSED:
        keys, values = (part.view(count, kv_heads, -1, dim) for part in (keys, values))
        mask = group.mask.view(count, kv_heads, 1, -1)
        out.copy_(functional.scaled_dot_product_attention(q.to(keys.dtype), keys, values, mask, scale=1.0))
        return
    queries = q.to(keys.dtype).reshape(count * kv_heads, repeats, dim)
    scores = torch.baddbmm(group.mask, queries, keys.transpose(1, 2))
    out.copy_(torch.bmm(scores.softmax(dim=-1), values).view(count, kv_heads, repeats, dim))


def _attend_works(q: Tensor, pool: KVPool, layer: int, group: Group, out: Tensor) -> None:
    keys, values = pool.read(layer, group.table)
    _, kv_heads, repeats, dim = q.shape
    count, tokens = group.count, group.tokens
    # The query heads of one KV head stand as further queries.
    order = (2, 0, 3, 1, 4)
    queries = _cast(q.view(count, tokens, kv_heads, repeats, dim).permute(order), pool.dtype)
    keys, values = keys.view(kv_heads * count, -1, dim), values.view(kv_heads * count, -1, dim)
    scores = torch.baddbmm(group.mask, queries.view(kv_heads * count, repeats * tokens, dim), keys.transpose(1, 2))
    found = torch.bmm(scores.softmax(dim=-1), values).view(kv_heads, count, repeats, tokens, dim)
    out.view(count, tokens, kv_heads, repeats, dim).permute(order).copy_(found)


def _attend_chunk(q: Tensor, pool: KVPool, layer: int, group: Group, out: Tensor) -> None:
    """Computes one long work, some queries at a time."""
    keys, values = pool.read(layer, group.table)
    _, kv_heads, repeats, dim = q.shape
    order = (1, 2, 0, 3)
    for first in range(0, group.tokens, len(group.mask)):
        part = slice(first, min(first + len(group.mask), group.tokens))
        rows, seen = part.stop - first, group.start + first
        length = min(keys.shape[1], _rounded(seen + rows))
        queries = torch.zeros(kv_heads, repeats, _rounded(rows), dim, dtype=pool.dtype, device=pool.device)
        queries[:, :, :rows].copy_(q[part].permute(order))
        scores = torch.bmm(queries.flatten(1, 2), keys[:, :length].transpose(1, 2)).view(*queries.shape[:3], length)
        scores[..., seen:].add_(group.mask[: _rounded(rows), : length - seen])
        found = torch.bmm(scores.softmax(dim=-1).flatten(1, 2), values[:, :length]).view(queries.shape)[:, :, :rows]
        out[part].permute(order).copy_(found)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns x in one piece and in another number format, at the cost of one copy."""
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)
