"""Copies of the keys and values of streams that decode, each in one piece.

The blocks of a stream lie anywhere in the pool. Gathering those of 16 rows
for every layer of every step is a third of a decoding step on a CPU, and all
but the last position was gathered the step before. So each decoding stream
has a lane: a stretch of its own, filled from its blocks once and then grown
by one position a step, that a batched product reads where it lies.

A lane never decides anything: it is a copy of what blocks hold. What does not
fit into the lanes, or a step that fails, goes back to the blocks.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from services.generator.backend.kv import KVPool
from services.generator.domain import Work

_LENGTHS = (128, 256, 384, 512, 768, 1024)
"""Lengths of lanes; longer ones are multiples of the last. All are read to their ends: parts would be copied first."""


def capacity_for(length: int) -> int:
    """Returns the length of the lane for a stream of so many positions."""
    for capacity in _LENGTHS:
        if length <= capacity:
            return capacity
    return -(-length // _LENGTHS[-1]) * _LENGTHS[-1]


class Slab:
    """Holds lanes of one capacity side by side.

    A layer's keys are (num_lanes * kv_heads, capacity, head_dim), and so are
    its values: the first n lanes are one batch of a batched product.
    """

    def __init__(self, pool: KVPool, *, capacity: int, num_lanes: int) -> None:
        self.capacity = capacity
        self.num_lanes = num_lanes
        self.lanes: list[tuple[int, int]] = []
        """Of each lane in use the stream whose first positions it holds, and how many."""
        self._pool = pool
        shape = (pool.num_layers, 2, num_lanes, pool.kv_heads, capacity, pool.head_dim)
        self._kv = torch.zeros(shape, dtype=pool.dtype, device=pool.device)
        self._flat = list(self._kv.view(pool.num_layers, -1, pool.head_dim).unbind(0))
        merged = self._kv.view(pool.num_layers, 2, num_lanes * pool.kv_heads, capacity, pool.head_dim)
        self._layers = [(layer[0], layer[1]) for layer in merged.unbind(0)]

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values of the lanes in use, each (lanes * kv_heads, capacity, head_dim), without a copy."""
        rows = len(self.lanes) * self._pool.kv_heads
        keys, values = self._layers[layer]
        return keys[:rows], values[:rows]

    def places(self) -> Tensor:
        """Returns where `store` puts the last position of each lane in use."""
        heads = torch.arange(2 * self._pool.kv_heads).view(2, 1, -1)
        heads = (heads[:1] % self._pool.kv_heads).expand(2, len(self.lanes), -1)
        lanes = torch.arange(len(self.lanes)).view(1, -1, 1)
        kinds = torch.arange(2).view(2, 1, 1)
        last = torch.tensor([length - 1 for _, length in self.lanes]).view(1, -1, 1)
        places = ((kinds * self.num_lanes + lanes) * self._pool.kv_heads + heads) * self.capacity + last
        return places.transpose(0, 1).flatten()

    def store(self, layer: int, places: Tensor, kv: Tensor) -> None:
        """Writes keys and values (lanes, 2 * kv_heads, head_dim) of a layer."""
        self._flat[layer].index_copy_(0, places, kv.reshape(-1, kv.shape[-1]))

    def settle(self, indices: Sequence[int], works: Mapping[int, Work]) -> list[int]:
        """Lets the first lanes be those of the works, and returns the works' indices in the order of their lanes."""
        lanes = {stream: (number, length) for number, (stream, length) in enumerate(self.lanes)}
        order: list[int | None] = [None] * len(indices)
        homeless: list[tuple[int, int | None]] = []
        for index in indices:
            number, length = lanes.get(works[index].stream, (-1, -1))
            if length < works[index].start:
                homeless.append((index, None))
            elif number >= len(order):
                homeless.append((index, number))
            else:
                order[number] = index
        for number in [number for number, index in enumerate(order) if index is None]:
            index, source = homeless.pop()
            if source is None:
                self._fill(number, works[index])
            else:
                self._kv[:, :, number] = self._kv[:, :, source]
            order[number] = index
        settled = [index for index in order if index is not None]
        self.lanes = [(works[index].stream, works[index].start + 1) for index in settled]
        return settled

    def _fill(self, number: int, work: Work) -> None:
        """Copies what a work's blocks hold before its token into a lane, and clears the rest of it."""
        size = self._pool.block_size
        table = torch.tensor(work.blocks[: -(-work.start // size)])
        length = len(table) * size
        self._kv[:, :, number, :, length:] = 0
        if length:
            self._kv[:, :, number, :, :length] = self._pool.read_all(table)[..., : self.capacity, :]


class Lanes:
    """Gives decoding streams their lanes; all lanes together hold at most `max_positions`."""

    def __init__(self, pool: KVPool, *, max_positions: int) -> None:
        self._pool = pool
        self._max_positions = max_positions
        self._slabs: dict[int, Slab] = {}

    def forget(self, streams: Collection[int] | None = None) -> None:
        """Takes the lanes of these streams away; of all after a step that failed."""
        for slab in self._slabs.values():
            slab.lanes = [(-1, -1) if streams is None or lane[0] in streams else lane for lane in slab.lanes]

    def place(self, works: Mapping[int, Work]) -> list[tuple[Slab, list[int]]]:
        """Gives each work of one token a lane that holds all before it and has room for it.

        Returns each slab with the indices of its works in the order of their
        lanes. Streams that are not among the works lose their lanes; what
        finds no room is left out.
        """
        wanted: dict[int, list[int]] = {}
        for index, work in works.items():
            wanted.setdefault(capacity_for(work.start + 1), []).append(index)
        for capacity, slab in self._slabs.items():
            if capacity not in wanted:
                slab.lanes.clear()
        found = [(self._slab(capacity, len(indices)), indices) for capacity, indices in sorted(wanted.items())]
        return [(slab, slab.settle(indices, works)) for slab, indices in found if slab is not None]

    def _slab(self, capacity: int, num_lanes: int) -> Slab | None:
        """Returns a slab with so many lanes, None where there is no room; unused ones make room."""
        slab = self._slabs.get(capacity)
        if slab is not None and slab.num_lanes >= num_lanes:
            return slab
        num_lanes = -(-num_lanes // 4) * 4
        others = {size: other for size, other in self._slabs.items() if size != capacity}
        for size in [size for size, other in others.items() if not other.lanes]:
            if _positions(others) + num_lanes * capacity > self._max_positions:
                del others[size]
        if _positions(others) + num_lanes * capacity > self._max_positions:
            return None
        self._slabs = others | {capacity: Slab(self._pool, capacity=capacity, num_lanes=num_lanes)}
        return self._slabs[capacity]


def _positions(slabs: Mapping[int, Slab]) -> int:
    return sum(size * slab.num_lanes for size, slab in slabs.items())
