"""The decision framework's words: a profile of seven factors, the evidence beside it, the advice that follows."""

from dataclasses import dataclass
from enum import StrEnum


class Factor(StrEnum):
    """Is what a profile tells about a domain."""

    DATA_VOLATILITY = "data_volatility"
    DOMAIN_SPECIFICITY = "domain_specificity"
    LATENCY = "latency"
    BUDGET = "budget"
    COMPLIANCE = "compliance"
    INFRASTRUCTURE_MATURITY = "infrastructure_maturity"
    EXPLAINABILITY = "explainability"


class DataVolatility(StrEnum):
    """Is how often the content changes, the most often first."""

    REALTIME = "realtime"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    STATIC = "static"


class DomainSpecificity(StrEnum):
    """Is how far the domain's language is from what a base model knows."""

    GENERAL = "general"
    SPECIALISED = "specialised"
    PROPRIETARY_LANGUAGE = "proprietary-language"


class Compliance(StrEnum):
    """Is what rules ask for; audit means that training data and answers must be accounted for."""

    NONE = "none"
    AUDIT = "audit"
    RECORDS_STAY_EXTERNAL = "records-stay-external"


class InfrastructureMaturity(StrEnum):
    """Is what is operated already; each level has those before it."""

    NONE = "none"
    BASIC = "basic"
    VECTOR_STORE = "vector-store"
    GPU_TRAINING = "gpu-training"


class Explainability(StrEnum):
    """Is whether an answer must name what it rests on."""

    NONE = "none"
    USEFUL = "useful"
    SOURCES_REQUIRED = "sources-required"


LEVELS: dict[Factor, type[StrEnum]] = {
    Factor.DATA_VOLATILITY: DataVolatility,
    Factor.DOMAIN_SPECIFICITY: DomainSpecificity,
    Factor.COMPLIANCE: Compliance,
    Factor.INFRASTRUCTURE_MATURITY: InfrastructureMaturity,
    Factor.EXPLAINABILITY: Explainability,
}
"""The factors whose values are words, and the words in their order; latency and budget are figures."""


class Approach(StrEnum):
    """Is what the framework chooses among."""

    RAG = "rag"
    FINE_TUNE = "fine-tune"
    HYBRID = "hybrid"


PATTERNS: dict[Approach, tuple[str, ...]] = {
    Approach.RAG: ("rag",),
    Approach.FINE_TUNE: ("finetuned",),
    Approach.HYBRID: ("cascade", "dual", "ensemble"),
}
"""The policies by which an approach is carried out."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Holds prices in one currency; those of tokens are for 1,000 of them, `training` is for one training.

    `trainings_per_month` is None where it follows from how often the content changes.
    """

    currency: str = "EUR"
    per_1000_input_tokens: float = 0.0
    per_1000_output_tokens: float = 0.0
    per_search: float = 0.0
    per_embedding: float = 0.0
    training: float = 0.0
    serving_per_month: float = 0.0
    trainings_per_month: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Describes a domain by the seven factors; latency and budget may be untold.

    `latency_limit_ms` is the longest wait for a whole answer at the 95th percentile, in milliseconds; None is no limit.
    """

    data_volatility: DataVolatility
    domain_specificity: DomainSpecificity
    compliance: Compliance
    infrastructure_maturity: InfrastructureMaturity
    explainability: Explainability
    latency_limit_ms: float | None = None
    questions_per_month: int | None = None
    costs: Costs | None = None


@dataclass(frozen=True)
class Accuracy:
    """Is the share of right answers of an arm, 0 to 1, with its interval, and by which measure."""

    value: float
    low: float
    high: float
    num_questions: int
    metric: str


@dataclass(frozen=True, kw_only=True)
class ArmEvidence:
    """Is what was measured of one policy's answers; None where nothing was, or too little."""

    arm: str
    num_answers: int = 0
    p95_ms: float | None = None
    mean_input_tokens: float | None = None
    mean_output_tokens: float | None = None
    cited_share: float | None = None
    abstained_share: float | None = None
    accuracy: Accuracy | None = None
    """By an evaluation of the domain."""
    feedback: Accuracy | None = None
    """By what people said of answers."""
    mean_cost: float | None = None
    """Of an answer, in the domain's currency."""


@dataclass(frozen=True, kw_only=True)
class CollectionEvidence:
    """Counts the documents whose present version is younger than a window; deletions and re-changes go uncounted.

    `settled` where the oldest document is older than the window: else the collection was being filled in it.
    """

    num_documents: int
    num_changed: int
    window_days: int = 7
    settled: bool = True


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Is what was measured of a domain that is live."""

    arms: tuple[ArmEvidence, ...] = ()
    collection: CollectionEvidence | None = None
    escalated_share: float | None = None
    """Of the cascade's answers, those that went on to the evidence path."""
    unencrypted_adapters: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What could not be measured, and why."""

    def arm(self, name: str) -> ArmEvidence | None:
        """Returns what was measured of a policy."""
        return next((arm for arm in self.arms if arm.arm == name), None)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Is a factor's opinion; `approach` is None where the factor is content with any, and then its weight is not cast.

    `source` is "anchor" for what the product's guide fixes, "default" for what somebody had to choose.
    """

    factor: Factor
    value: str
    approach: Approach | None
    weight: int
    threshold: str
    because: str
    source: str


@dataclass(frozen=True, kw_only=True)
class PathStep:
    """Is one question of the tree with its answer; `compared` tells the figures."""

    question_id: str
    ask: str
    factor: Factor | None
    yes: bool
    compared: str
    threshold: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Is one change of one factor, all else equal, after which the advice is another; the nearest for each advice."""

    factor: Factor
    declared: str
    changed: str
    approach: Approach
    pattern: str


@dataclass(frozen=True, kw_only=True)
class Money:
    """Weighs the cost of a question against that of training, in one currency.

    `break_even` is the least number of questions a month at which fine-tuning costs less than retrieval, None where no
    number does. The totals of a month are None where the volume is untold.
    """

    currency: str
    rag_per_question: float
    finetuned_per_question: float
    hybrid_per_question: float
    training_per_month: float
    break_even: int | None
    cheaper: Approach | None
    rag_per_month: float | None
    finetuned_per_month: float | None
    hybrid_per_month: float | None
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Is a measurement that speaks against what a profile declares of a factor.

    For None it speaks against the advice itself, or against an evaluation that no longer holds.

    `approach` and `pattern` are what would be advised if the profile said what was measured; None and "" where the
    measurement cannot take the place of what was declared.
    """

    factor: Factor | None
    declared: str
    measured: str
    text: str
    approach: Approach | None = None
    pattern: str = ""


@dataclass(frozen=True)
class Cell:
    """Is one entry of the comparison: what holds in general, and the figure measured or computed here, "" for none."""

    text: str
    figure: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Is one dimension of the comparison."""

    dimension: str
    rag: Cell
    fine_tune: Cell
    hybrid: Cell


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Is what the framework says of a profile, and all that it rests on.

    `tally` holds the cast weights of each approach, `open_weight` those of factors that are content with any; together
    they are the sum of all weights. `lean` is the approach with the most votes, None in a tie.
    """

    approach: Approach
    pattern: str
    leaf: str
    reason: str
    votes: tuple[Vote, ...]
    tally: dict[Approach, int]
    open_weight: int
    lean: Approach | None
    path: tuple[PathStep, ...]
    flips: tuple[Flip, ...]
    conditions: tuple[str, ...]
    money: Money | None
    evidence: Evidence | None
    contradictions: tuple[Contradiction, ...]
    comparison: tuple[Comparison, ...]
