"""Domains: the fields of questions that a router serves, each with its models, documents and rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.router.domain.advice import Costs, Profile
from services.router.domain.calibration import Artefact


class Below(StrEnum):
    """Is what happens to an answer that passages support too little."""

    ABSTAIN = "abstain"
    """It is withheld."""
    ESCALATE = "escalate"
    """The other path is tried where the policy has one left; withheld where it has none."""
    TELL = "tell"
    """It is given, with its groundedness."""


class Depth(StrEnum):
    """Is which evidence grounding consults; each has that of those before, but entailment takes their place."""

    WORDS = "words"
    VECTORS = "vectors"
    LIKELIHOOD = "likelihood"
    ENTAILMENT = "entailment"


@dataclass(frozen=True)
class LabelCondition:
    """Narrows searches to documents whose label has one of these values, or to the others where it is excluded.

    Without values the label must be there, whatever its value.
    """

    key: str
    values: tuple[str, ...] = ()
    excluded: bool = False


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Is what an evaluation measured of one policy in this domain: accuracy with its 95 % interval, and its price.

    `p95_ms` is of whole answers at one at a time; `cost` is a mean of an answer, in the domain's currency. `behind` is
    the least, at 95 %, by which the accuracy lies below that of another policy on the same questions; it is negative
    where the accuracy may be above.
    """

    policy: str
    accuracy: float
    low: float
    high: float
    num_questions: int
    metric: str
    p95_ms: float | None = None
    cost: float | None = None
    num_calls: float | None = None
    behind: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Is a field of questions; an adapter that is "" is none, an empty set of tenants is all of them.

    `threshold` is the geometric mean of token probabilities from which a draft is accepted where there is no artefact.
    """

    name: str = "default"
    description: str = ""
    tenants: frozenset[str] = frozenset()
    policy: str = "cascade"
    answer_adapter: str = "answers"
    reading_adapter: str = "reading"
    documents: tuple[LabelCondition, ...] = ()
    snapshot: str = ""
    profile: Profile | None = None
    costs: Costs | None = None
    artefact: Artefact | None = None
    threshold: float = 0.95
    latency_objective_ms: float | None = None
    min_groundedness: float = 0.4
    below: Below = Below.ABSTAIN
    depth: Depth = Depth.WORDS
    results: tuple[ArmResult, ...] = ()
    """What `tandem evaluate arms` measured; `auto` chooses by it."""


DEFAULT_DOMAIN = Domain()
"""Is what a router without a folder of domains serves, but for its own settings."""


@dataclass(frozen=True)
class ListedDomain:
    """Is a domain and why the newest version of its file is not in use, "" where it is."""

    domain: Domain
    fault: str = ""
