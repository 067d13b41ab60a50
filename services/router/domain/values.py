"""Values: what a question, a draft and an answer are."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tandem.security import Principal

EMBEDDER, RETRIEVER, GENERATOR, AUDIT = "embedder", "retriever", "generator", "audit"
ABSTAINED_TEXT = "I found nothing in the documents you may see that answers this question."


class Route(StrEnum):
    """Is a path that can produce an answer."""

    NONE = "none"
    FINETUNED = "finetuned"
    RAG = "rag"


class StepKind(StrEnum):
    """Is what a decision does to the draft before it."""

    CHOOSE = "choose"
    ACCEPT = "accept"
    ESCALATE = "escalate"
    FALL_BACK = "fall_back"
    ABSTAIN = "abstain"


class Outcome(StrEnum):
    """Is how an answer ended."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class SearchMode(StrEnum):
    """Is which rankings a search consults."""

    HYBRID = "hybrid"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Turn:
    """Is one earlier question with its answer."""

    question: str
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Is a checked request; timeout_s is what is left of the caller's deadline, None where it set none."""

    text: str
    principal: Principal
    policy: str
    history: tuple[Turn, ...] = ()
    max_passages: int = 5
    as_of: datetime | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class QueryVector:
    """Is the embedding of a question, and the SHA-256 of the weights that it comes from, "" where nobody told."""

    values: Sequence[float]
    model_sha256: str = ""


@dataclass(frozen=True)
class Span:
    """Is a half-open range of characters."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Is a chunk of a document as the search returned it."""

    document_id: str
    chunk_id: str
    title: str
    text: str
    span: Span
    source: str = ""
    headings: tuple[str, ...] = ()
    page: int | None = None
    score: float = 0.0
    dense_rank: int | None = None
    sparse_rank: int | None = None


@dataclass(frozen=True)
class Usage:
    """Counts tokens."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True)
class Lineage:
    """Names the exact weights that wrote a text; adapter is empty where the base model wrote alone."""

    model: str
    model_sha256: str
    adapter: str = ""
    adapter_sha256: str = ""
    signer_key_id: str = ""
    """The key whose signature vouches for the adapter."""
    cipher: str = ""
    """What the adapter is encrypted with at rest, empty where it is not, and by which key."""
    cipher_key_id: str = ""


@dataclass(frozen=True)
class Confidence:
    """Is an estimate, 0 to 1, that an answer is right; without a calibration it is the mean token probability."""

    value: float
    calibration: str = ""


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Ties a part of the answer to a part of a document's extracted text."""

    answer_span: Span
    document_id: str
    chunk_id: str
    title: str
    document_span: Span
    quote: str
    page: int | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Is what a path produced; confidence and lineage are None where no model wrote the text."""

    route: Route
    text: str
    confidence: Confidence | None = None
    lineage: Lineage | None = None
    passages: tuple[Passage, ...] = ()
    citations: tuple[Citation, ...] = ()
    abstained: bool = False


@dataclass(frozen=True)
class Drafted:
    """Names the weights that began a draft, whatever became of it; `finished` where it was written to its end."""

    route: Route
    lineage: Lineage
    finished: bool = False


@dataclass(frozen=True)
class DecisionStep:
    """Is one decision and its reason, with the figures compared."""

    kind: StepKind
    route: Route
    reason: str


@dataclass(frozen=True)
class Degradation:
    """Names a part that was missing and what the answer lacks because of it."""

    component: str
    effect: str


@dataclass(frozen=True)
class StageTiming:
    """Is the wall time of one stage, in seconds."""

    stage: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Is the reply to a question and what it rests on."""

    answer_id: str
    policy: str
    rewritten_question: str
    draft: Draft
    steps: tuple[DecisionStep, ...]
    degraded: tuple[Degradation, ...] = ()
    usage: Usage = Usage()
    timings: tuple[StageTiming, ...] = ()


@dataclass(frozen=True)
class Started:
    """Opens an answer; its audit record is durable by now."""

    answer_id: str
    policy: str
    rewritten_question: str


@dataclass(frozen=True)
class Sources:
    """Are the passages that a path reads, as they stand in the prompt."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Delta:
    """Is a piece of the draft, continuing the pieces since the last decision."""

    text: str


Event = Started | DecisionStep | Sources | Delta
Emit = Callable[[Event], Awaitable[None]]
