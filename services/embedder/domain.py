"""What the embedder is about: texts, token ids, vectors, and the port to a model."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Vector: TypeAlias = "array[float]"
"""One dense vector: an ``array`` of typecode ``"f"`` (32-bit floats) with as many items as the model's dimension."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Names the exact weights and what they read and write."""

    name: str
    sha256: str
    """SHA-256 of the weights in lower-case hexadecimal."""
    dimension: int
    """Number of components of a vector."""
    max_tokens: int
    """Tokens of one text that the model reads, special tokens included."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Holds the token ids of one text, special tokens included."""

    ids: Sequence[int]
    """At most ``ModelInfo.max_tokens`` ids, at least one."""
    truncated: bool
    """Whether the text was longer than the model reads."""


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """Holds the vector of one text and what it cost."""

    vector: Vector
    num_tokens: int
    truncated: bool
    queue_seconds: float
    """From the arrival of the text to the start of its batch, tokenisation included."""
    infer_seconds: float
    """Duration of the batch that the text was in."""

    @property
    def seconds(self) -> float:
        """Time from arrival to vector."""
        return self.queue_seconds + self.infer_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds the engine's batches, queue and streams."""

    max_batch_tokens: int
    """Tokens of one batch, padding included."""
    max_batch_texts: int
    max_queue_tokens: int
    """Tokens that may wait for a batch; streams wait once the queue is half full."""
    max_stream_texts: int
    """Texts of one stream between their arrival and the reading of their vector."""


class Encoder(Protocol):
    """Runs one embedding model. Tokenises and encodes on different threads, each one call at a time."""

    @property
    def info(self) -> ModelInfo:
        """Describes the model."""

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Returns the token ids of each text, cut to what the model reads. Accepts any string."""

    def encode(self, batch: Sequence[Sequence[int]]) -> list[Vector]:
        """Returns one vector of unit length for each item of ``batch``, in its order."""
