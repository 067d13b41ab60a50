"""Grounding: what is said of an answer's support, and the ports of the services that are asked for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from services.router.domain.spans import Citation, Span
from tandem.prompts import Message


class Signal(StrEnum):
    """Is a source of evidence."""

    LEXICAL = "lexical"
    EMBEDDING = "embedding"
    LIKELIHOOD = "likelihood"
    ENTAILMENT = "entailment"


class GroundingStatus(StrEnum):
    """Says whether there is a figure, and what it lacks."""

    MEASURED = "measured"
    """By every signal that is configured."""
    PARTIAL = "partial"
    """A configured signal failed; the combination without it was used."""
    NOTHING_SAID = "nothing_said"
    """The answer holds no word: there is no figure."""
    NO_PASSAGES = "no_passages"
    """No passage could be cited: there is no figure."""


@dataclass(frozen=True)
class AbsentSignal:
    """Names a signal that is configured and failed, and why, in words without anybody's text."""

    signal: Signal
    reason: str


@dataclass(frozen=True, kw_only=True)
class GroundedSentence:
    """Is how far passages support one sentence of an answer."""

    answer_span: Span
    groundedness: float
    """0 to 1, finite."""
    support: Citation | None
    """The part of a document that supports it best; None where nothing supports it."""
    signals: Mapping[str, float] = field(default_factory=dict)
    """What was read, by name, finite; services/router/grounding/ says what the names mean."""


@dataclass(frozen=True, kw_only=True)
class Groundedness:
    """Is how far passages support an answer."""

    status: GroundingStatus
    value: float | None = None
    """0 to 1; None where the status says that there is no figure."""
    sentences: tuple[GroundedSentence, ...] = ()
    rests_on: tuple[Signal, ...] = ()
    """The signals that the figures were combined from."""
    absent: tuple[AbsentSignal, ...] = ()
    version: str = ""
    """Names the weights of the combination, or the classifier that took its place."""

    @property
    def num_calls(self) -> int:
        """Is how many calls of peers were made for it: one for each signal but the lexical."""
        return len({*self.rests_on, *(one.signal for one in self.absent)} - {Signal.LEXICAL})


@dataclass(frozen=True)
class Continuation:
    """Is a text whose likelihood after a prompt is asked for."""

    messages: Sequence[Message]
    text: str


@dataclass(frozen=True)
class TokenLikelihood:
    """Is one token of a continuation and its natural logarithm of probability; U+FFFD for a part of a character."""

    text: str
    logprob: float


@dataclass(frozen=True)
class ClassifiedPairs:
    """Are the probabilities of each pair, one for each label; `model_sha256` is of the classifier's weights."""

    labels: Sequence[str]
    probabilities: Sequence[Sequence[float]]
    model_sha256: str = ""


class TextEmbedder(Protocol):
    """Is the port to Embed."""

    async def embed_texts(self, texts: Sequence[str], *, timeout_s: float) -> Sequence[Sequence[float]]:
        """Returns one vector for each text, in order; at most 512 texts. Raises TandemError."""
        ...


class LikelihoodScorer(Protocol):
    """Is the port to Score."""

    async def score(
        self, continuations: Sequence[Continuation], *, timeout_s: float
    ) -> Sequence[Sequence[TokenLikelihood]]:
        """Returns the tokens of each continuation, in order. Raises TandemError."""
        ...


class PairClassifier(Protocol):
    """Is the port to ClassifyPairs."""

    async def classify_pairs(self, pairs: Sequence[tuple[str, str]], *, timeout_s: float) -> ClassifiedPairs:
        """Returns the probabilities of each (premise, hypothesis), in order; at most 256 pairs. Raises TandemError."""
        ...
