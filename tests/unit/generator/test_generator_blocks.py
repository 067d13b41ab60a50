"""The block pool: who holds what, what is shared, what gives way, what is forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.generator.engine.blocks import BlockPool, Node

ROOT = ("t", None)


def fill(pool: BlockPool, tokens: list[int], *, root: tuple[str, str | None] = ROOT) -> list[int]:
    """Does what a stream does: takes over what is known, computes the rest, makes it known."""
    nodes = pool.match(root, tokens, len(tokens))
    blocks = [pool.hold(node) for node in nodes]
    node: Node | None = nodes[-1] if nodes else pool.root(root)
    size = pool.block_size
    for start in range(len(blocks) * size, len(tokens), size):
        blocks.append(pool.allocate())
        part = tuple(tokens[start : start + size])
        if node is not None and len(part) == size:
            node = pool.register(node, part, blocks[-1])
    return blocks


def test_a_released_prefix_is_found_again_up_to_the_limit() -> None:
    pool = BlockPool(8, 2, sharing=True)
    blocks = fill(pool, [1, 2, 3, 4, 5])
    pool.release(blocks)
    assert (pool.used, pool.cached, pool.available) == (0, 2, 8)
    assert [node.block for node in pool.match(ROOT, [1, 2, 3, 4, 5], 5)] == blocks[:2]
    assert [node.block for node in pool.match(ROOT, [1, 2, 3, 4, 5], 3)] == blocks[:1]
    assert pool.match(ROOT, [1, 2, 9, 4], 4) == pool.match(ROOT, [1, 2], 2)
    assert pool.match(ROOT, [3, 4], 2) == []


@pytest.mark.parametrize("other", [("u", None), ("t", "x")])
def test_another_tenant_or_adapter_finds_nothing(other: tuple[str, str | None]) -> None:
    pool = BlockPool(8, 2, sharing=True)
    fill(pool, [1, 2, 3, 4])
    assert pool.match(other, [1, 2, 3, 4], 4) == []


def test_a_shared_block_is_free_only_when_all_have_let_go() -> None:
    pool = BlockPool(4, 2, sharing=True)
    first, second = fill(pool, [1, 2]), fill(pool, [1, 2])
    assert first == second
    pool.release(first)
    assert pool.used == 1
    pool.release(second)
    assert (pool.used, pool.cached) == (0, 1)


def test_the_least_recently_used_gives_way_and_the_end_of_a_prefix_before_its_beginning() -> None:
    pool = BlockPool(4, 1, sharing=True)
    old, new = fill(pool, [1, 2]), fill(pool, [8, 9])
    pool.release(old)
    pool.release(new)
    pool.release(fill(pool, [1, 2]))
    assert [pool.allocate() for _ in range(4)] == [new[1], new[0], old[1], old[0]]


def test_two_who_compute_the_same_keep_their_own_blocks() -> None:
    pool = BlockPool(4, 2, sharing=True)
    first = pool.allocate()
    second = pool.allocate()
    root = pool.root(ROOT)
    assert root is not None
    assert pool.register(root, (1, 2), first) is not None
    assert pool.register(root, (1, 2), second) is None
    pool.release([second])
    assert (pool.used, pool.cached) == (1, 0)


def test_what_is_lost_is_forgotten_with_all_that_builds_on_it() -> None:
    pool = BlockPool(8, 1, sharing=True)
    pool.release(fill(pool, [1, 2, 3]))
    held = fill(pool, [1, 2, 4])
    pool.forget([held[1]])
    assert len(pool.match(ROOT, [1, 2, 3], 3)) == 1
    assert pool.cached == 0
    pool.release(held)
    assert (pool.used, pool.cached, pool.available) == (0, 1, 8)


def test_without_sharing_nothing_is_kept() -> None:
    pool = BlockPool(4, 2, sharing=False)
    pool.release(fill(pool, [1, 2, 3, 4]))
    assert (pool.cached, pool.match(ROOT, [1, 2, 3, 4], 4)) == (0, [])


class Machine(RuleBasedStateMachine):
    """Streams come and go; a plain dictionary knows what each block holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(10, 2, sharing=True)
        self.streams: list[tuple[tuple[str, str | None], list[int], list[int]]] = []
        self.content: dict[int, tuple[tuple[str, str | None], tuple[int, ...]]] = {}

    @rule(
        root=st.sampled_from([("t", None), ("u", None), ("t", "x")]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9),
    )
    def start(self, root: tuple[str, str | None], tokens: list[int]) -> None:
        nodes = self.pool.match(root, tokens, len(tokens) - 1)
        needed = self.pool.blocks_for(len(tokens)) - len(nodes) + self.pool.unheld(nodes)
        if needed > self.pool.available:
            return
        for end, node in enumerate(nodes, 1):
            assert self.content[node.block] == (root, tuple(tokens[: 2 * end]))
        blocks = fill(self.pool, tokens, root=root)
        for index in range(len(nodes), len(blocks)):
            self.content[blocks[index]] = (root, tuple(tokens[: 2 * (index + 1)]))
        self.streams.append((root, tokens, blocks))

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        _, _, blocks = self.streams.pop(data.draw(st.integers(0, len(self.streams) - 1)))
        self.pool.release(blocks)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.streams) - 1))
        lost = set(self.streams[index][2])
        self.pool.forget(lost)
        for stream in [stream for stream in self.streams if lost & set(stream[2])]:
            self.streams.remove(stream)
            self.pool.release(stream[2])
        for block in lost:
            self.content.pop(block, None)

    @invariant()
    def everything_is_counted(self) -> None:
        held = {block for _, _, blocks in self.streams for block in blocks}
        assert self.pool.used == len(held)
        assert self.pool.used + self.pool.available == self.pool.num_blocks

    @invariant()
    def blocks_hold_what_their_streams_need(self) -> None:
        for root, tokens, blocks in self.streams:
            for index, block in enumerate(blocks):
                assert self.content[block] == (root, tuple(tokens[: 2 * (index + 1)]))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40)
