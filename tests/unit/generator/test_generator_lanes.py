"""Decoding rows read copies of their blocks: the copies hold what the blocks hold, whoever comes and goes."""

import random

import pytest
import torch

from services.generator.backend import attention
from services.generator.backend.lanes import Lanes, capacity_for
from services.generator.domain import Work
from tests.fakes.generator_pool import BLOCK, DIM, HEADS, KV_HEADS, new_pool

NUM_BLOCKS = 1200
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 0.02, "atol": 0.08}}


class Streams:
    """Lets streams of random lengths decode, as a scheduler would, and writes their keys and values."""

    def __init__(self, *, max_positions: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.pool = new_pool(NUM_BLOCKS, dtype)
        self.lanes = Lanes(self.pool, max_positions=max_positions)
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)
        self.blocks: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}
        self.free = list(range(NUM_BLOCKS))
        self.random.shuffle(self.free)
        self.num_streams = 0

    def start(self, length: int) -> None:
        """Adds a stream that has read so many tokens."""
        stream, self.num_streams = self.num_streams, self.num_streams + 1
        self.blocks[stream], self.lengths[stream] = [], 0
        for layer in (0, 1):
            self._write(stream, layer, self._fresh(length), 0)
        self.lengths[stream] = length

    def leave(self, stream: int, *, spoiled: bool = False) -> None:
        """Ends a stream; what it leaves in its blocks may be no numbers."""
        blocks = self.blocks.pop(stream)
        del self.lengths[stream]
        if spoiled:
            self.pool._pool[:, blocks] = torch.inf
        self.free += blocks
        self.random.shuffle(self.free)

    def decode(self) -> list[int]:
        """Computes one step of all streams and compares each row with its blocks; returns the rows of each slab."""
        streams = self.random.sample(sorted(self.lengths), len(self.lengths))
        works = [self._work(stream) for stream in streams]
        placed = self.lanes.place(dict(enumerate(works)))
        order = [i for _, indices in placed for i in indices]
        order += attention.order(works, BLOCK, without=order)
        works = [works[i] for i in order]
        plan = attention.groups(works, [slab for slab, _ in placed], self.pool, heads=HEADS)
        for layer in (0, 1):
            kv, q = self._fresh(len(works)), self._fresh(len(works))[:, :KV_HEADS].unsqueeze(2).repeat(1, 1, 2, 1)
            q = q.float()
            for row, work in enumerate(works):
                self._write(work.stream, layer, kv[row : row + 1], work.start)
            found = torch.empty(len(works), HEADS * DIM)
            attention.attend(q, kv, pool=self.pool, layer=layer, plan=plan, out=found)
            for row, work in enumerate(works):
                wanted = self._wanted(q[row], work, layer)
                torch.testing.assert_close(found[row], wanted, **TOLERANCE[self.pool.dtype])
        for work in works:
            self.lengths[work.stream] += 1
        return [len(indices) for _, indices in placed]

    def _fresh(self, rows: int) -> torch.Tensor:
        return torch.randn(rows, 2 * KV_HEADS, DIM, generator=self.torch).to(self.pool.dtype)

    def _work(self, stream: int) -> Work:
        start = self.lengths[stream]
        self._grow(stream, start + 1)
        return Work(stream=stream, tokens=[0], start=start, blocks=self.blocks[stream])

    def _grow(self, stream: int, length: int) -> None:
        while len(self.blocks[stream]) * BLOCK < length:
            self.blocks[stream].append(self.free.pop())
            self.pool.clear(self.blocks[stream][-1:])

    def _write(self, stream: int, layer: int, kv: torch.Tensor, start: int) -> None:
        self._grow(stream, start + len(kv))
        places = [(position // BLOCK, position % BLOCK) for position in range(start, start + len(kv))]
        slots = torch.tensor([self.blocks[stream][block] * BLOCK + place for block, place in places], dtype=torch.long)
        self.pool.store(layer, slots, kv)

    def _wanted(self, q: torch.Tensor, work: Work, layer: int) -> torch.Tensor:
        keys, values = (part.float() for part in self.pool.read(layer, torch.tensor(work.blocks)))
        seen = work.start + 1
        rows = [
            (q[head, repeat] @ keys[head, :seen].T).softmax(-1) @ values[head, :seen]
            for head in range(KV_HEADS)
            for repeat in range(HEADS // KV_HEADS)
        ]
        return torch.cat(rows)


@pytest.mark.parametrize("seed", range(12))
def test_rows_attend_to_what_their_blocks_hold_whoever_comes_and_goes(seed: int) -> None:
    # In bf16 what is small goes by another way.
    dtype = torch.bfloat16 if seed % 4 < 2 else torch.float32
    streams = Streams(max_positions=8_000 if seed % 2 else 1_200, seed=seed, dtype=dtype)
    for _ in range(60):
        if streams.lengths and streams.random.random() < 0.25:
            leaving = streams.random.choice(sorted(streams.lengths))
            streams.leave(leaving, spoiled=streams.random.random() < 0.5)
        if len(streams.lengths) < 9 and streams.random.random() < 0.4:
            streams.start(streams.random.choice([0, 1, 7, 126, 127, 128, 250, 300]))
        if streams.lengths:
            streams.decode()


def test_streams_of_like_length_share_a_slab_and_what_finds_no_room_goes_by_its_blocks() -> None:
    streams = Streams(max_positions=4 * 128 + 4 * 384, seed=1)
    for length in (20, 40, 100, 300):
        streams.start(length)
    assert streams.decode() == [3, 1]
    streams.start(20)
    assert streams.decode() == [4, 1]
    streams.start(20)
    assert streams.decode() == [1]  # the slab of five short rows would need eight lanes


def test_room_that_nobody_uses_is_given_to_others() -> None:
    streams = Streams(max_positions=4 * 384, seed=1)
    streams.start(20)
    assert streams.decode() == [1]
    streams.leave(0)
    streams.start(300)
    assert streams.decode() == [1]


def test_what_a_failed_step_left_is_not_read_again() -> None:
    streams = Streams(max_positions=4_000, seed=2)
    streams.start(50)
    streams.decode()
    streams.lanes._slabs[128]._kv.fill_(torch.nan)
    streams.lanes.forget()
    assert streams.decode() == [1]


def test_a_lane_holds_its_stream_and_is_not_much_longer() -> None:
    for length in range(1, 5000):
        assert length <= capacity_for(length) <= max(128, 2 * length, length + 1024)
