"""What the engine tells a runner to compute in one step, and what comes back.

A runner decides nothing and remembers nothing but keys and values: each step
names the tokens to read, the blocks that they go into, and how the next
tokens are drawn. A sequence that lost its blocks is therefore continued by
reading its tokens again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.generator.domain.values import Mixing, Sampling


@dataclass(frozen=True, kw_only=True)
class Work:
    """Is one stream's share of a step.

    The runner reads `tokens` at the positions start, start + 1, ... and
    stores their keys and values in `blocks`: blocks[i] holds the positions
    i * block_size up to (i + 1) * block_size. What stands there before
    `start` was computed in earlier steps, or by another work of this very
    step: in each layer all keys and values are stored before any are read.
    """

    stream: int
    """Names the stream in Runner.release; never reused."""
    tokens: Sequence[int]
    """A token below 0 is no token of the vocabulary but position -1 - token of the adapter's prefix."""
    start: int
    blocks: Sequence[int]
    adapter: str | None = None
    """Key of the adapter; None is the base model."""
    targets: Sequence[int] = ()
    """To score: the tokens that follow the last len(targets) positions of this work."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Asks for the next token of a sequence, after the last position of each of its works."""

    sequence: int
    works: tuple[int, ...]
    """Indices into Step.works, one for each stream."""
    weights: tuple[float, ...] = (1.0,)
    mixing: Mixing = Mixing.ARITHMETIC
    sampling: Sampling
    """With its seed set."""
    history: Sequence[int]
    """The first stream's prompt and all output so far: what the repetition penalty counts."""
    position: int
    """Number of tokens produced so far: with the seed it fixes the chance of this draw."""
    num_alternatives: int = 0


@dataclass(frozen=True)
class Step:
    """Is one pass through the model."""

    works: tuple[Work, ...]
    draws: tuple[Draw, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Is the token that a draw chose, measured on the distribution before temperature, filters and bias.

    entropy is in nats; margin is the probability of the likeliest token less
    that of the second; alternatives are (token id, logprob), likeliest first.
    """

    token_id: int
    logprob: float
    entropy: float = 0.0
    margin: float = 0.0
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenScore:
    """Is the logprob of one target, the entropy there in nats, and whether the target was the likeliest token."""

    logprob: float
    entropy: float
    greedy: bool


@dataclass(frozen=True)
class StepResult:
    """Holds the choices by sequence, and for each work with targets the scores by the work's index."""

    choices: Mapping[int, Choice]
    scores: Mapping[int, tuple[TokenScore, ...]]


class NotFinite(ValueError):
    """Says that the logits after some works of a step are NaN or infinite: weights that overflow have no next token.

    `works` are their indices in Step.works; the step has failed as a whole,
    but its other works may be computed again without these.
    """

    def __init__(self, works: Sequence[int] = ()) -> None:
        self.works = tuple(sorted(set(works)))
        super().__init__(f"the logits after {len(self.works) or 'some'} works of the step are not finite")


class NotLoaded(LookupError):
    """Says that works of a step name adapters whose weights are not in memory; `works` is as NotFinite's."""

    def __init__(self, works: Sequence[int]) -> None:
        self.works = tuple(sorted(set(works)))
        super().__init__(f"{len(self.works)} works of the step name adapters that are not in memory")
