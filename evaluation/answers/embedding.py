"""Embeds texts by the embedder service."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH = 64


@dataclass(frozen=True)
class Embedded:
    """Holds vectors, (N, D), in the order of the texts, and the SHA-256 of the weights that made them."""

    vectors: NDArray[np.float32]
    model_sha256: str


async def embed(client: Any, texts: Sequence[str], told: Callable[[int], None]) -> Embedded:
    """Returns one vector for each text; `client` has the `embed` of tandem.client.AsyncEmbedderClient."""
    rows: list[Any] = []
    model = ""
    for start in range(0, len(texts), _BATCH):
        response = await client.embed(texts[start : start + _BATCH])
        rows += [one.values for one in response.embeddings]
        model = response.lineage.model_sha256
        told(len(rows))
    return Embedded(np.array(rows, dtype=np.float32), model)
