"""What vectors come from."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.retriever.domain.documents import Vector


@dataclass(frozen=True)
class EmbeddingModel:
    """Names the weights that vectors come from."""

    name: str
    sha256: str
    dimension: int


@dataclass(frozen=True)
class Embedded:
    """Is one vector for each text, and the model that made them."""

    vectors: Sequence[Vector]
    model: EmbeddingModel
