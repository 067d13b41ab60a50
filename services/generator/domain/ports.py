"""The ports between the generator's rooms."""

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from services.generator.domain.steps import Step, StepResult
from services.generator.domain.values import (
    Adapter,
    Event,
    Feature,
    GenerateInput,
    ModelInfo,
    Prompt,
    Score,
    ScoreInput,
    Usage,
)


class Runner(Protocol):
    """Runs the model. Called from one thread at a time, never from the event loop."""

    block_size: int
    """Positions in one block of keys and values."""
    num_blocks: int
    """Blocks that there are, numbered from 0."""
    shares_blocks: bool
    """Whether a block that one stream filled may stand in another's table."""

    def run(self, step: Step) -> StepResult:
        """Computes one step; on an exception the content of every block it names is lost."""

    def release(self, streams: Collection[int]) -> None:
        """Forgets what is kept for streams that have ended or lost their blocks; unknown ones are ignored."""


class Adapters(Protocol):
    """Holds adapter weights in memory. Called from any one thread at a time, beside a running step."""

    def load(self, adapter: Adapter) -> None:
        """Reads the weights, ready for steps that name adapter.key; does nothing if they are there.

        Raises ValueError where the file is not the one that was verified or
        holds numbers that are not finite, OSError where it cannot be read.
        """

    def unload(self, key: str) -> None:
        """Drops the weights; no step in progress or to come names the key."""


class Tokenizer(Protocol):
    """Turns text into tokens and back."""

    end_tokens: frozenset[int]
    """Tokens that end the model's turn; they have no text."""

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the prompt's tokens; raises FailedPrecondition for a chat without a chat template."""

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the tokens of a text that continues a prompt: no special tokens are added or recognised."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the tokens, U+FFFD where bytes are no character; special tokens have no text."""


class Backend(Protocol):
    """Generates and scores: the engine on a runner, or a server that does both.

    A backend takes over the pins of a request, whatever becomes of it.
    """

    model: ModelInfo
    features: frozenset[Feature]

    async def start(self) -> None:
        """Makes ready to serve."""

    async def stop(self) -> None:
        """Ends; what still runs fails with Unavailable."""

    def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        """Yields Started, a Delta for each token, and Finished; closing the iterator frees the slot within a step.

        Raises InvalidInput (reason PROMPT_TOO_LONG beyond the context),
        Overloaded when the queue is full, DeadlineExceeded, FailedPrecondition
        for a feature that the backend lacks.
        """

    async def score(self, request: ScoreInput) -> tuple[list[Score], Usage]:
        """Returns the score of each item, in order, and what all cost; prompts and continuations count as input.

        Raises as generate does.
        """
