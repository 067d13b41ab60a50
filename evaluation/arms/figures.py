"""What an arm is worth and what it takes, by question, and how arms compare. All arms have the same questions in the
same order; intervals are bootstraps over groups of questions, by the same draws, so that differences are paired."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.answers.answered import Answered
from evaluation.answers.judging import Rule, Worth
from evaluation.answers.questions import Question
from evaluation.arms.paths import waited_s
from tandem.scoring import Interval, bootstrap, mean, mean_interval, paired_interval, percentile

PER_ANSWER = ("accuracy", "em", "f1", "abstained", "calls", "tokens", "cost")


@dataclass(frozen=True)
class Column:
    """Holds an arm's figures by question, each list in the order of the questions; cost is empty where not known."""

    values: dict[str, list[float]]
    grounded: list[tuple[float, str]]
    """Groundedness and group of the answers that have one."""
    found: list[tuple[float, str]]
    """1 where a gold document is among the passages, and group, of the answers that read passages and have one."""
    waits: list[tuple[float, float]]
    """Seconds and weight of the answers that were asked for alone; of all where none was."""
    num_failed: int = 0
    currency: str = ""


@dataclass(frozen=True)
class Arm:
    """Is what one arm is worth."""

    metrics: dict[str, Interval]
    """accuracy, em, f1, abstained and, where passages were read and judged, groundedness."""
    calls: float
    tokens: float
    cost: float | None
    currency: str
    p50_ms: float
    p95_ms: float
    num_timed: int
    num_failed: int
    kinds: dict[str, Interval] = field(default_factory=dict)
    """Accuracy by the questions' kind."""
    routes: dict[str, float] = field(default_factory=dict)
    """Share of the answers by the path that gave them."""


def column(questions: Sequence[Question], answers: Sequence[Answered], rule: Rule) -> Column:
    """Returns the figures of an arm that was asked."""
    worth: list[Worth] = [rule.worth(one, answer) for one, answer in zip(questions, answers, strict=True)]
    costs = [answer.cost for answer in answers]
    alone = [answer for answer in answers if answer.alone] or list(answers)
    return Column(
        values={
            "accuracy": [one.right for one in worth],
            "em": [one.em for one in worth],
            "f1": [one.f1 for one in worth],
            "abstained": [one.abstained for one in worth],
            "calls": [answer.num_calls for answer in answers],
            "tokens": [answer.tokens for answer in answers],
            "cost": [cost for cost in costs if cost is not None] if None not in costs else [],
        },
        grounded=[
            (answer.groundedness, one.group)
            for one, answer in zip(questions, answers, strict=True)
            if answer.groundedness is not None
        ],
        found=[
            (float(any(passage["document_id"] in one.gold_document_ids for passage in answer.passages)), one.group)
            for one, answer in zip(questions, answers, strict=True)
            if one.gold_document_ids and answer.passages
        ],
        waits=[(waited_s(one.arm, one.seconds, one.stages_ms), 1.0) for one in alone if not one.error],
        num_failed=sum(bool(answer.error) for answer in answers),
        currency=next((answer.currency for answer in answers if answer.currency), ""),
    )


def mixed(own: Column, evidence: Column, shares: Sequence[float]) -> Column:
    """Returns the figures of a router that takes the first path with these chances; a wait is of the path taken."""
    values = {
        name: [
            share * mine + (1 - share) * theirs
            for share, mine, theirs in zip(shares, own.values[name], evidence.values[name], strict=True)
        ]
        if own.values[name] and evidence.values[name]
        else []
        for name in PER_ANSWER
    }
    taken = mean(shares)
    waits = [(seconds, weight * taken / max(1, len(own.waits))) for seconds, weight in own.waits]
    waits += [(seconds, weight * (1 - taken) / max(1, len(evidence.waits))) for seconds, weight in evidence.waits]
    return Column(values, [], [], waits, currency=own.currency)


def measured(questions: Sequence[Question], found: Column, *, seed: int, routes: Sequence[str] = ()) -> Arm:
    """Returns what an arm is worth."""
    groups = [one.group for one in questions]
    metrics = {
        name: mean_interval(found.values[name], groups=groups, seed=seed)
        for name in ("accuracy", "em", "f1", "abstained")
    }
    for name, pairs in (("groundedness", found.grounded), ("gold found", found.found)):
        if pairs:
            values, of = zip(*pairs, strict=True)
            metrics[name] = mean_interval(values, groups=of, seed=seed)
    kinds = {}
    for kind in sorted({one.kind for one in questions if one.kind}):
        places = [place for place, one in enumerate(questions) if one.kind == kind]
        right = [found.values["accuracy"][place] for place in places]
        kinds[kind] = mean_interval(right, groups=[groups[place] for place in places], seed=seed)
    return Arm(
        metrics=metrics,
        calls=mean(found.values["calls"]),
        tokens=mean(found.values["tokens"]),
        cost=mean(found.values["cost"]) if found.values["cost"] else None,
        currency=found.currency,
        p50_ms=1000 * weighted_percentile(found.waits, 0.5),
        p95_ms=1000 * weighted_percentile(found.waits, 0.95),
        num_timed=len(found.waits),
        num_failed=found.num_failed,
        kinds=kinds,
        routes={route: routes.count(route) / len(routes) for route in dict.fromkeys(routes) if route},
    )


def weighted_percentile(values: Sequence[tuple[float, float]], share: float) -> float:
    """Returns the least value up to which a share of the weights lies; where all weigh alike, as tandem.scoring has it.

    0 where there are no values.
    """
    held = [(value, weight) for value, weight in values if weight > 0]
    if not held:
        return 0.0
    if len({weight for _, weight in held}) == 1:
        return percentile([value for value, _ in held], share)
    total, seen = sum(weight for _, weight in held), 0.0
    for value, weight in sorted(held):
        seen += weight
        if seen >= share * total - 1e-12:
            return value
    return max(value for value, _ in held)


@dataclass(frozen=True)
class Comparison:
    """Is an arm against another: the mean difference, and what it says in a word."""

    arm: str
    other: str
    gain: Interval
    tokens: Interval
    calls: Interval

    @property
    def verdict(self) -> str:
        """Is "better" or "worse" where the interval excludes 0, else "no difference shown"."""
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "no difference shown"


def compare(arm: str, other: str, columns: dict[str, Column], groups: Sequence[str], *, seed: int) -> Comparison:
    """Returns by how much an arm is above another, in accuracy, tokens and calls, paired by question."""
    mine, theirs = columns[arm].values, columns[other].values

    def gain(name: str) -> Interval:
        return paired_interval(mine[name], theirs[name], groups=groups, seed=seed)

    return Comparison(arm, other, gain("accuracy"), gain("tokens"), gain("calls"))


def share_of_oracle(
    arm: Column, own: Column, evidence: Column, best: Column, groups: Sequence[str], *, seed: int
) -> Interval | None:
    """Returns (arm - best pure path) / (oracle - best pure path); None where the oracle is not shown to gain anything.

    Which path is the better one is decided anew in each draw; a draw in which the oracle gains nothing counts as 0.
    """
    columns = (arm, own, evidence, best)
    rows = list(zip(*(one.values["accuracy"] for one in columns), strict=True))

    def share(drawn: Sequence[tuple[float, ...]]) -> float:
        reached, *pure, top = (mean(values) for values in zip(*drawn, strict=True))
        room = top - max(pure)
        return (reached - max(pure)) / room if room > 1e-12 else 0.0

    if gain_of_oracle(own, evidence, best, groups, seed=seed).low <= 1e-12:
        return None
    return bootstrap(rows, share, groups=groups, seed=seed)


def gain_of_oracle(own: Column, evidence: Column, best: Column, groups: Sequence[str], *, seed: int) -> Interval:
    """Returns the oracle's accuracy less that of the better pure path."""
    rows = list(zip(*(one.values["accuracy"] for one in (own, evidence, best)), strict=True))

    def gain(drawn: Sequence[tuple[float, ...]]) -> float:
        *pure, top = (mean(values) for values in zip(*drawn, strict=True))
        return top - max(pure)

    return bootstrap(rows, gain, groups=groups, seed=seed)
