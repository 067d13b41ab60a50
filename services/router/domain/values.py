"""Values: what a question, a draft and an answer are."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.router.domain.calibration import NOTHING_KNOWN, Features, ScopeReading
from services.router.domain.domains import DEFAULT_DOMAIN, Domain
from services.router.domain.grounding import Groundedness
from services.router.domain.spans import Citation, Span
from tandem.security import Principal

EMBEDDER, RETRIEVER, GENERATOR, AUDIT, BUDGET = "embedder", "retriever", "generator", "audit", "budget"
ABSTAINED_TEXT = "I found nothing in the documents you may see that answers this question."


class Route(StrEnum):
    """Is a path that can produce an answer."""

    NONE = "none"
    FINETUNED = "finetuned"
    RAG = "rag"
    ENSEMBLE = "ensemble"


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
class Allowance:
    """Is what the caller lets an answer cost, beside its deadline; None is no bound."""

    max_calls: int | None = None
    max_cost: float | None = None


NO_BOUND = Allowance()


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
    domain: Domain = DEFAULT_DOMAIN
    allowance: Allowance = NO_BOUND


@dataclass(frozen=True)
class QueryVector:
    """Is the embedding of a question, and the SHA-256 of the weights that it comes from, "" where nobody told."""

    values: Sequence[float]
    model_sha256: str = ""


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
    dense_score: float | None = None
    """Cosine to the question, None where the dense search did not return it."""


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
class Draft:
    """Is what a path produced; confidence and lineage are None where no model wrote the text."""

    route: Route
    text: str
    confidence: Confidence | None = None
    lineage: Lineage | None = None
    passages: tuple[Passage, ...] = ()
    citations: tuple[Citation, ...] = ()
    groundedness: Groundedness | None = None
    """How far the passages support the text; None where none were read."""
    signals: Features = NOTHING_KNOWN
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


@dataclass(frozen=True)
class Cost:
    """Is what an answer took; amount is None where the domain declares no costs."""

    num_calls: int = 0
    amount: float | None = None
    currency: str = ""


NO_COST = Cost()


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
    domain: str = "default"
    scope: ScopeReading | None = None
    cost: Cost = NO_COST


@dataclass(frozen=True)
class Started:
    """Opens an answer; its audit record is durable by now."""

    answer_id: str
    policy: str
    rewritten_question: str
    domain: str = "default"


@dataclass(frozen=True)
class Sources:
    """Are the passages that a path reads, as they stand in the prompt."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Delta:
    """Is a piece of the draft, continuing the pieces since the last decision."""

    text: str


@dataclass(frozen=True)
class Cited:
    """Ties the draft to documents, once its text is whole."""

    citations: tuple[Citation, ...]
    groundedness: Groundedness


Event = Started | DecisionStep | Sources | Delta | Cited
Emit = Callable[[Event], Awaitable[None]]
