"""A small pool of keys and values, and the sizes of the model that it would belong to."""

import torch

from services.generator.backend.kv import KVPool

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 8, 4


def new_pool(num_blocks: int, dtype: torch.dtype = torch.float32) -> KVPool:
    """Returns an empty pool of two layers."""
    return KVPool(
        num_layers=2,
        num_blocks=num_blocks,
        block_size=BLOCK,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        dtype=dtype,
        device=torch.device("cpu"),
    )
