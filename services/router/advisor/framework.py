"""What a framework is made of: rules, votes, the tree, and what is compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.router.domain.advice import Approach, DataVolatility, Factor

FIGURES = (
    "",
    "changes",
    "p95",
    "accuracy",
    "per_question",
    "training",
    "per_month",
    "cited",
    "abstained",
)
"""What may stand beside a dimension of the comparison."""

Value = str | float | Approach | None
"""A factor's value as rules see it: a level, the latency limit in milliseconds, or the cheaper approach."""


class FrameworkFault(ValueError):
    """Says where in a framework's file what is wrong."""

    def __init__(self, place: str, fault: str) -> None:
        super().__init__(f"{place}: {fault}")


@dataclass(frozen=True)
class Rule:
    """Is a condition on one factor; one without any part always holds."""

    levels: frozenset[str] | None = None
    at_most: float | None = None
    under: float | None = None
    cheaper: Approach | None = None

    def holds(self, value: Value) -> bool:
        """Tells whether a factor's value meets the condition; a figure that is not told meets none."""
        if self.levels is not None:
            return value in self.levels
        if self.cheaper is not None:
            return value == self.cheaper
        if self.at_most is not None:
            return isinstance(value, float) and value <= self.at_most
        return self.under is None or (isinstance(value, float) and value < self.under)


@dataclass(frozen=True, kw_only=True)
class VoteRule:
    """Is what a factor votes for where its rule holds; None casts nothing."""

    rule: Rule
    approach: Approach | None
    threshold: str
    because: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Voter:
    """Is a factor with its weight and its rules, the first that holds decides."""

    factor: Factor
    weight: int
    rules: tuple[VoteRule, ...]


@dataclass(frozen=True)
class Lead:
    """Asks whether one approach's votes are at least so many more than those of each other one."""

    of: Approach
    over: tuple[Approach, ...]
    by: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """Is an inner node of the tree: it asks one factor, or the votes."""

    id: str
    ask: str
    subject: Factor | Lead
    rule: Rule
    threshold: str
    source: str
    yes: str
    no: str


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Is an end of the tree."""

    id: str
    approach: Approach
    pattern: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Is what must be seen to when an advice is followed under a profile."""

    factor: Factor
    rule: Rule
    approaches: frozenset[str]
    patterns: frozenset[str]
    text: str


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Is a row of the comparison."""

    name: str
    figure: str
    texts: Mapping[Approach, str]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Is what answers are taken to consume where nothing was counted."""

    rag_input_tokens: float
    finetuned_input_tokens: float
    output_tokens: float
    escalated_share: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Is from where on a measurement contradicts."""

    min_answers: int
    min_changed: int
    stale_share: float
    cited_share: float


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Is the whole file; the first question is the root."""

    voters: tuple[Voter, ...]
    questions: Mapping[str, Question]
    leaves: Mapping[str, Leaf]
    root: str
    duties: tuple[Duty, ...]
    trainings_per_month: Mapping[DataVolatility, float]
    days: Mapping[DataVolatility, float]
    workload: Workload
    limits: Limits
    dimensions: tuple[Dimension, ...]

    def latency_steps(self) -> tuple[float, ...]:
        """Returns limits in milliseconds, one on each side of every threshold."""
        rules = [rule.rule for voter in self.voters for rule in voter.rules]
        rules += [question.rule for question in self.questions.values()]
        steps = {step for rule in rules if rule.at_most is not None for step in (rule.at_most, rule.at_most + 1)}
        steps |= {step for rule in rules if rule.under is not None for step in (rule.under - 1, rule.under)}
        return tuple(sorted(step for step in steps if step > 0))

    def below(self, node: str) -> Iterator[str]:
        """Yields a node and all that hang on it, "yes" before "no"."""
        yield node
        if node in self.questions:
            yield from self.below(self.questions[node].yes)
            yield from self.below(self.questions[node].no)
