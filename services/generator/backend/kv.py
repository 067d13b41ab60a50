"""The pool of keys and values, in blocks of equally many positions."""

from collections.abc import Sequence

import torch
from torch import Tensor


class KVPool:
    """Holds keys and values of all layers; memory is committed as blocks are first written.

    A layer's part is (2 * kv_heads, num_blocks, block_size, head_dim), the
    keys of all heads before the values: what is gathered of it for a batch
    of works is laid out as one batched matrix product wants it.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        shape = (num_layers * 2 * kv_heads, num_blocks, block_size, head_dim)
        self._pool = torch.zeros(shape, dtype=dtype, device=device)
        layers = self._pool.view(num_layers, 2 * kv_heads, num_blocks, block_size * head_dim)
        self._blocks = list(layers.unbind(0))
        self._slots = [layer.view(2 * kv_heads, num_blocks * block_size, head_dim) for layer in self._blocks]

    @property
    def dtype(self) -> torch.dtype:
        """Returns the number format of keys and values."""
        return self._pool.dtype

    @property
    def device(self) -> torch.device:
        """Returns where keys and values lie."""
        return self._pool.device

    def clear(self, blocks: Sequence[int]) -> None:
        """Writes zeros into blocks that are about to be filled.

        Reading a block takes in its positions that are not filled yet, at
        weight 0; what a failed sequence left there may be infinite, and 0
        times infinity is no number.
        """
        if blocks:
            self._pool.index_fill_(1, torch.tensor(blocks, device=self._pool.device), 0)

    def store(self, layer: int, slots: Tensor, kv: Tensor) -> None:
        """Writes keys and values (T, 2 * kv_heads, head_dim) of a layer into slots (T,)."""
        self._slots[layer].index_copy_(1, slots, kv.transpose(0, 1))

    def read(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values in the blocks of a table (n,), each (kv_heads, n * block_size, head_dim)."""
        found = self._blocks[layer].index_select(1, table)
        keys, values = found.view(2, len(found) // 2, -1, self._slots[layer].shape[-1])
        return keys, values

    def read_all(self, table: Tensor) -> Tensor:
        """Returns what is in the blocks of a table (n,), (layers, 2, kv_heads, n * block_size, head_dim)."""
        found = self._pool.index_select(1, table)
        return found.view(self.num_layers, 2, self.kv_heads, -1, self.head_dim)
