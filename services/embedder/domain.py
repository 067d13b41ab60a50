"""What the embedder is about: texts, token ids, vectors, scores of pairs, and the port to a model."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

Vector: TypeAlias = "array[float]"
"""One dense vector: an ``array`` of typecode ``"f"`` (32-bit floats) with as many items as the model's dimension."""

Pair: TypeAlias = tuple[str, str]
"""Two texts that a cross-encoder reads at once."""

Scores: TypeAlias = Sequence[float]
"""What a cross-encoder says of one pair before it is made a probability: one item for each label, unbounded."""

LATE_INTERACTION = "late-interaction"
"""Names the reranker that compares the token vectors of the embedding model."""

_Input = TypeVar("_Input", contravariant=True)
_Output = TypeVar("_Output")
_Covariant = TypeVar("_Covariant", covariant=True)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Names the exact weights and what they read and write."""

    name: str
    sha256: str
    """SHA-256 of the weights in lower-case hexadecimal; another one where int8 makes other vectors of them."""
    dimension: int
    """Number of components of a vector, or of labels."""
    max_tokens: int
    """Tokens of one text, or of one pair, that the model reads, special tokens included."""
    precision: str = "fp32"
    """What it computes in: "fp32", "bf16" or "int8"."""
    labels: tuple[str, ...] = ()
    """Classes of a cross-encoder."""
    backend: str = "torch"
    """What computes: "torch" or "openvino"."""
    pads: bool = True
    """Whether the texts of a batch are filled up to its longest."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Holds the token ids of one text or pair, special tokens included."""

    ids: Sequence[int]
    """At most ``ModelInfo.max_tokens`` ids, at least one."""
    truncated: bool
    """Whether the text was longer than the model reads."""
    types: Sequence[int] = ()
    """Of a pair: 0 for each token of the first text, 1 for each of the second."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Tells where the time of one text went, in seconds."""

    tokenize: float = 0.0
    """From its arrival until its tokens were there."""
    queue: float = 0.0
    """From then on to the start of its batch."""
    infer: float = 0.0
    """Duration of the batch that it was in."""

    @property
    def total(self) -> float:
        """Time from arrival to result."""
        return self.tokenize + self.queue + self.infer


NO_TIME = Timings()


@dataclass(frozen=True, slots=True)
class Computed(Generic[_Output]):
    """Holds what a model made of one text or pair, and what it cost."""

    output: _Output
    num_tokens: int
    truncated: bool
    timings: Timings


EmbeddedText: TypeAlias = Computed[Vector]


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
    workers: int = 1
    """Batches that run at a time."""
    cache_texts: int = 0
    """Short texts whose vectors are kept."""


class Model(Protocol[_Input, _Covariant]):
    """Runs one model. Tokenises on some threads and computes on others, at most ``Limits.workers`` calls at a time."""

    @property
    def info(self) -> ModelInfo:
        """Describes the model."""

    def tokenize(self, inputs: Sequence[_Input]) -> list[TokenizedText]:
        """Returns the token ids of each input, cut to what the model reads. Accepts any string."""

    def run(self, batch: Sequence[TokenizedText]) -> Sequence[_Covariant]:
        """Returns one output for each item of ``batch``, in its order."""

    def warm_up(self) -> Sequence[TokenizedText]:
        """Returns a batch with the longest input that the model reads."""


Encoder: TypeAlias = Model[str, Vector]
"""Turns texts into vectors of unit length."""

PairScorer: TypeAlias = Model[Pair, Scores]
"""Reads two texts at once: a cross-encoder, or late interaction."""


def probabilities(scores: Scores) -> list[float]:
    """Returns the softmax of several scores, the logistic function of a single one."""
    if len(scores) == 1:
        (score,) = scores
        # Two forms, for exp of a large number overflows.
        return [1 / (1 + math.exp(-score))] if score >= 0 else [math.exp(score) / (1 + math.exp(score))]
    peak = max(scores)
    powers = [math.exp(score - peak) for score in scores]
    return [power / sum(powers) for power in powers]
