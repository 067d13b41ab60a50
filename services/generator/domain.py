"""What the generator speaks of: prompts, sampling, sequences, adapters, and the ports of its engine."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

SHARED_TENANT = "_shared"


class FinishReason(Enum):
    """Tells why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Message:
    """Is one turn of a chat prompt; role is "system", "user" or "assistant"."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""A text to continue as it is, or a conversation for the model's chat template."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Says how the next token is chosen; the ranges are those of tandem.v1.Sampling."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Describes low-rank weights on top of the base model that passed all checks."""

    tenant: str
    name: str
    sha256: str
    rank: int
    scale: float
    num_parameters: int
    folder: Path

    @property
    def key(self) -> str:
        """Names the adapter among those of all tenants."""
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Names the exact weights behind an output; the adapter's fields are empty without one."""

    model: str
    model_sha256: str
    adapter: str = ""
    adapter_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Describes the base model."""

    name: str
    sha256: str
    max_context_tokens: int
    precision: str


@dataclass(frozen=True, kw_only=True)
class GenerateInput:
    """Is what a caller asks for; deadline is in seconds of time.monotonic."""

    prompt: Prompt
    adapter: Adapter | None = None
    sampling: Sampling = field(default_factory=Sampling)
    deadline: float | None = None


@dataclass(frozen=True)
class Token:
    """Is one generated token; logprob is under the model's unmodified distribution."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Started:
    """Opens a sequence."""

    lineage: Lineage
    input_tokens: int


@dataclass(frozen=True)
class Delta:
    """Is the next piece of text, possibly empty, and the token that was chosen in this step."""

    text: str
    token: Token


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Closes a sequence; tail is text that was held back until the end was known. Times in seconds."""

    reason: FinishReason
    tail: str
    lineage: Lineage
    input_tokens: int
    output_tokens: int
    mean_logprob: float
    min_logprob: float
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


Event = Started | Delta | Finished


@dataclass(frozen=True)
class Choice:
    """Is the next token of one sequence, and its logprob under the unmodified distribution."""

    token_id: int
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """Is a sequence as the runner sees it; `id` names it in later steps."""

    id: int
    prompt: tuple[int, ...]
    sampling: Sampling
    adapter_key: str | None


class Runner(Protocol):
    """Runs the model. Called from one thread at a time, never from the event loop."""

    def prefill(self, rows: Sequence[Row]) -> Mapping[int, Choice]:
        """Reads the prompts, adds the rows to the running ones, and returns the first token of each."""

    def step(self) -> Mapping[int, Choice]:
        """Returns the next token of every running row."""

    def remove(self, ids: Collection[int]) -> None:
        """Lets rows go; unknown ids are ignored."""


class Tokenizer(Protocol):
    """Turns text into tokens and back."""

    end_tokens: frozenset[int]
    """Tokens that end the model's turn; they have no text."""

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the prompt's tokens; raises FailedPrecondition for a chat without a chat template."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the tokens, U+FFFD where bytes are no character; special tokens have no text."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds the engine; the meaning of each is told in config.py."""

    max_running: int = 16
    max_running_tokens: int = 32_768
    max_prefill_tokens: int = 2048
    max_waiting: int = 64
