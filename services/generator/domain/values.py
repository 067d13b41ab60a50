"""Prompts, sampling, adapters, requests and the events of a sequence."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

SHARED_TENANT = "_shared"


class FinishReason(Enum):
    """Tells why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"


class Priority(Enum):
    """Says how large a share of the engine a sequence may claim when others wait."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Mixing(Enum):
    """Says how the distributions of several prompts become one.

    ARITHMETIC: p = sum(w_i p_i), weights not negative, their sum 1 (REPLUG, arXiv 2301.12652).
    LOGARITHMIC: p ~ exp(sum(w_i log p_i)); a negative weight contrasts (arXiv 2305.14739).
    """

    ARITHMETIC = "arithmetic"
    LOGARITHMIC = "logarithmic"


class Feature(Enum):
    """Names what a backend may lack; a request for it is then refused with FailedPrecondition."""

    ADAPTERS = "adapters"
    BLENDING = "blending"
    SCORING = "scoring"
    ENTROPY = "entropy"


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
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and what is added to its logit."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Describes what stands on top of the base model and passed all checks: low-rank weights, or a prefix."""

    tenant: str
    name: str
    sha256: str
    rank: int
    """0 for a prefix."""
    scale: float
    num_parameters: int
    read: Callable[[], bytes] = field(repr=False, compare=False)
    """Returns the plain bytes of the weights file, read anew and checked; may raise OSError, or say why it refuses."""
    num_virtual: int = 0
    """Positions that a prefix puts before every prompt; 0 for low-rank weights."""
    manifest_sha256: str = ""
    """SHA-256 of the manifest that binds its files."""
    signer_key_id: str = ""
    """The key whose signature vouches for it."""
    cipher: str = ""
    """What its files are encrypted with on disk; empty where they are not."""
    cipher_key_id: str = ""

    @property
    def version(self) -> str:
        """Returns the version's name."""
        return self.sha256[:16]

    @property
    def key(self) -> str:
        """Names these very weights at this scale: another version has another key, and keys are never reused."""
        return f"{self.tenant}/{self.name}@{self.sha256}x{self.scale!r}"


class Pin:
    """Keeps an adapter's weights in memory until it is released.

    Whoever holds a pin may run on `adapter.key`. The engine takes over the
    pins of a request and releases each once the sequence has left the runner.
    """

    def __init__(self, adapter: Adapter, release: Callable[[], None]) -> None:
        self.adapter = adapter
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Lets the weights go; further calls do nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Names the exact weights behind an output; the adapter's fields are empty without one."""

    model: str
    model_sha256: str
    adapter: str = ""
    adapter_sha256: str = ""
    signer_key_id: str = ""
    cipher: str = ""
    cipher_key_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Describes the base model."""

    name: str
    sha256: str
    max_context_tokens: int
    precision: str
    vocabulary_size: int = 0
    """Number of token ids; 0 where the backend does not tell."""

    def lineage(self, adapter: Adapter | None = None) -> Lineage:
        """Returns the lineage of what this model writes, on the adapter if there is one."""
        lineage = Lineage(model=self.name, model_sha256=self.sha256)
        if adapter is None:
            return lineage
        return replace(
            lineage,
            adapter=adapter.name,
            adapter_sha256=adapter.sha256,
            signer_key_id=adapter.signer_key_id,
            cipher=adapter.cipher,
            cipher_key_id=adapter.cipher_key_id,
        )


@dataclass(frozen=True, kw_only=True)
class StreamInput:
    """Is one prompt of a generation, on the base model or on an adapter; `weight` is its share of a blend."""

    prompt: Prompt
    pin: Pin | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GenerateInput:
    """Is what a caller asks for: one stream, or several that share every sampled token.

    deadline is in seconds of time.monotonic. Sequences of different tenants
    never share cached keys and values.
    """

    streams: tuple[StreamInput, ...]
    tenant: str
    mixing: Mixing = Mixing.ARITHMETIC
    sampling: Sampling = field(default_factory=Sampling)
    num_alternatives: int = 0
    """How many of the likeliest tokens are told with each token, 0 to 20."""
    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None

    @property
    def pins(self) -> tuple[Pin, ...]:
        """Returns the pins that the request carries."""
        return tuple(stream.pin for stream in self.streams if stream.pin is not None)


@dataclass(frozen=True, kw_only=True)
class ScoreItem:
    """Is a continuation whose likelihood under a prompt is wanted; it is tokenised by itself."""

    prompt: Prompt
    continuation: str


@dataclass(frozen=True, kw_only=True)
class ScoreInput:
    """Asks for the likelihood of continuations, all on the same weights."""

    items: tuple[ScoreItem, ...]
    tenant: str
    pin: Pin | None = None
    priority: Priority = Priority.BATCH
    deadline: float | None = None


@dataclass(frozen=True)
class Alternative:
    """Is one of the likeliest tokens at a position."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Token:
    """Is one token.

    logprob and entropy (nats) are under the distribution before temperature,
    filters, penalty and bias; of a blend, under the blended one. margin is
    the probability of the likeliest token less that of the second. Entropy
    and margin are None where the backend cannot tell them.
    """

    token_id: int
    text: str
    logprob: float
    entropy: float | None = None
    margin: float | None = None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Sums up the tokens of a sequence: the raw material of a calibrated confidence, no probability itself."""

    mean_logprob: float
    min_logprob: float
    mean_entropy: float | None = None
    max_entropy: float | None = None
    mean_margin: float | None = None
    min_margin: float | None = None


@dataclass(frozen=True)
class Score:
    """Is the likelihood of one continuation, in nats; greedy tells whether each token was the likeliest."""

    sum_logprob: float
    greedy: bool
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class StreamCost:
    """Tells what one prompt of a generation cost; cached_tokens of its input were not read again."""

    lineage: Lineage
    weight: float
    input_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts tokens: those of all prompts, those taken from shared blocks, those produced, those computed.

    computed_tokens counts every position that went through the model, in all
    streams and again after a preemption: it is what the sequence cost.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    computed_tokens: int = 0


@dataclass(frozen=True)
class Started:
    """Opens a sequence; lineage is that of the first stream."""

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
    usage: Usage
    confidence: Confidence
    streams: tuple[StreamCost, ...] = ()
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


Event = Started | Delta | Finished


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds the engine; the meaning of each is told in config.py."""

    max_running: int = 16
    max_prefill_tokens: int = 512
    max_step_stretch: float = 1.6
    max_waiting: int = 64
    prefix_sharing: bool = True
