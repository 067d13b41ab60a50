"""Which works attention computes together, and that it sees the blocks that a table names."""

from collections.abc import Sequence

import pytest
import torch

from services.generator.backend import attention
from services.generator.backend.kv import KVPool
from services.generator.domain import Work
from tests.fakes.generator_pool import BLOCK, DIM, HEADS, KV_HEADS, new_pool


def pool(num_blocks: int = 400) -> KVPool:
    made = new_pool(num_blocks)
    made._pool.normal_(generator=torch.Generator().manual_seed(0))
    return made


def work(tokens: int, start: int, first_block: int = 0) -> Work:
    used = -(-(start + tokens) // BLOCK)
    # Backwards, so that a table that is not followed shows.
    return Work(
        stream=0, tokens=[0] * tokens, start=start, blocks=list(range(first_block + used - 1, first_block - 1, -1))
    )


def planned(works: Sequence[Work], made: KVPool) -> list[attention.Group | attention.LaneGroup]:
    works = [works[i] for i in attention.order(works, BLOCK)]
    return attention.groups(works, (), made, heads=HEADS)


def wanted(q: torch.Tensor, one: Work, made: KVPool) -> torch.Tensor:
    """The attention of one work, position by position."""
    keys, values = made.read(1, torch.tensor(one.blocks))
    rows = []
    for place in range(len(one.tokens)):
        seen = one.start + place + 1
        heads = [
            (q[place, head, repeat] @ keys[head, :seen].T).softmax(-1) @ values[head, :seen]
            for head in range(KV_HEADS)
            for repeat in range(HEADS // KV_HEADS)
        ]
        rows.append(torch.cat(heads))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 0)],
        [(1, 3), (1, 4), (1, 5), (1, 399)],
        [(3, 0), (3, 9), (3, 2)],
        [(130, 0)],
        [(300, 77)],
        [(47, 1), (47, 30), (48, 5), (48, 5)],
        [(1, 200), (5, 0), (150, 21), (1, 2), (5, 11)],
    ],
)
def test_every_position_attends_to_those_before_it(shapes: list[tuple[int, int]]) -> None:
    made = pool()
    works, first = [], 0
    for tokens, start in shapes:
        works.append(work(tokens, start, first))
        first += len(works[-1].blocks)
    total = sum(tokens for tokens, _ in shapes)
    q = torch.randn(total, KV_HEADS, HEADS // KV_HEADS, DIM, generator=torch.Generator().manual_seed(1))
    kv = made.read(1, torch.arange(1))[0].new_zeros(total, 2 * KV_HEADS, DIM)  # only lanes take it
    found = torch.empty(total, HEADS * DIM)
    attention.attend(q, kv, pool=made, layer=1, plan=planned(works, made), out=found)
    ordered = [works[i] for i in attention.order(works, BLOCK)]
    row = 0
    for one in ordered:
        part = slice(row, row + len(one.tokens))
        torch.testing.assert_close(found[part], wanted(q[part], one, made), rtol=1e-4, atol=1e-5)
        row = part.stop
    assert row == total


def test_decoding_rows_of_like_length_share_a_group_and_others_do_not() -> None:
    made = pool()
    alike = [work(1, start) for start in (100, 101, 105, 110, 90)]
    assert [group.count for group in planned(alike, made)] == [5]
    apart = [*alike, work(1, 1500)]
    assert [group.count for group in planned(apart, made)] == [5, 1]
    chunks = [*alike, work(40, 0), work(40, 3), work(64, 0), work(64, 0)]
    assert [group.count for group in planned(chunks, made)] == [5, 2, 1, 1]


def test_short_rows_share_a_group_although_their_lengths_differ() -> None:
    assert len(planned([work(1, start) for start in range(0, 20, 3)], pool())) == 1
