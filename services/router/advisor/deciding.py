"""Decides: the votes of the seven factors, the way through the tree, and what single change would end elsewhere."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.router.advisor.framework import Framework, Lead, Leaf, Question, Value
from services.router.advisor.money import weigh
from services.router.domain.advice import LEVELS, Approach, Evidence, Factor, Flip, Money, PathStep, Profile, Vote

_ANY_VOLUME = 1000
"""Stands for any questions a month where there is no break-even: once a volume is told, retrieval is the cheaper."""
NAMES = {Approach.RAG: "retrieval", Approach.FINE_TUNE: "fine-tuning", Approach.HYBRID: "hybrid"}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Is where a profile ends in the tree, and how it got there."""

    leaf: Leaf
    path: tuple[PathStep, ...]
    votes: tuple[Vote, ...]
    tally: dict[Approach, int]
    money: Money | None


def decide(framework: Framework, profile: Profile, evidence: Evidence | None = None) -> Decision:
    """Returns the one leaf of a profile; the evidence only makes the costs of a question exact."""
    money = weigh(framework, profile, evidence)
    votes = tuple(_votes(framework, profile, money))
    tally = {approach: sum(vote.weight for vote in votes if vote.approach is approach) for approach in Approach}
    path: list[PathStep] = []
    node = framework.root
    while node in framework.questions:
        question = framework.questions[node]
        step = _ask(question, profile, money, tally)
        path.append(step)
        node = question.yes if step.yes else question.no
    return Decision(leaf=framework.leaves[node], path=tuple(path), votes=votes, tally=tally, money=money)


def lean(tally: dict[Approach, int]) -> Approach | None:
    """Returns the approach with the most votes, None where several have."""
    most = [approach for approach in Approach if tally[approach] == max(tally.values())]
    return most[0] if len(most) == 1 else None


def flips(framework: Framework, profile: Profile, evidence: Evidence | None = None) -> tuple[Flip, ...]:
    """Returns the changes of one factor that change the advice: for each factor and each other advice the nearest.

    Those that change the approach come first.
    """
    now = decide(framework, profile, evidence)
    found: list[Flip] = []
    for factor in Factor:
        seen = {(now.leaf.approach, now.leaf.pattern)}
        for changed in _alternatives(framework, profile, now, factor):
            then = decide(framework, changed, evidence)
            advice = (then.leaf.approach, then.leaf.pattern)
            if advice in seen:
                continue
            seen.add(advice)
            declared, other = told(factor, profile, now.money), told(factor, changed, then.money)
            found.append(Flip(factor=factor, declared=declared, changed=other, approach=advice[0], pattern=advice[1]))
    return tuple(sorted(found, key=lambda flip: flip.approach is now.leaf.approach))


def value_of(factor: Factor, profile: Profile, money: Money | None) -> Value:
    """Returns a factor's value as the rules see it."""
    if factor is Factor.LATENCY:
        return None if profile.latency_limit_ms is None else float(profile.latency_limit_ms)
    if factor is Factor.BUDGET:
        return None if money is None else money.cheaper
    return str(getattr(profile, factor))


def told(factor: Factor, profile: Profile, money: Money | None) -> str:
    """Returns a factor's value in words."""
    if factor is Factor.LATENCY:
        return "no limit" if profile.latency_limit_ms is None else f"{profile.latency_limit_ms:g} ms"
    if factor is not Factor.BUDGET:
        return str(value_of(factor, profile, money))
    asked = "untold" if profile.questions_per_month is None else f"{profile.questions_per_month:,}"
    if money is None:
        return f"{asked} questions a month, no prices"
    even = "no break-even" if money.break_even is None else f"break-even at {money.break_even:,}"
    return f"{asked} questions a month, {even}"


def with_level(profile: Profile, factor: Factor, level: str) -> Profile:
    """Returns the profile with another level of a factor."""
    return replace(profile, **{factor.value: LEVELS[factor](level)})  # type: ignore[arg-type]


def _votes(framework: Framework, profile: Profile, money: Money | None) -> Iterator[Vote]:
    for voter in framework.voters:
        value = value_of(voter.factor, profile, money)
        rule = next(rule for rule in voter.rules if rule.rule.holds(value))
        yield Vote(
            factor=voter.factor,
            value=told(voter.factor, profile, money),
            approach=rule.approach,
            weight=voter.weight,
            threshold=rule.threshold,
            because=rule.because,
            source=rule.source,
        )


def _ask(question: Question, profile: Profile, money: Money | None, tally: dict[Approach, int]) -> PathStep:
    if isinstance(question.subject, Lead):
        lead = question.subject
        yes = all(tally[lead.of] - tally[other] >= lead.by for other in lead.over)
        compared = ", ".join(f"{NAMES[approach]} {tally[approach]}" for approach in (lead.of, *lead.over))
    else:
        yes = question.rule.holds(value_of(question.subject, profile, money))
        compared = told(question.subject, profile, money)
    return PathStep(
        question_id=question.id,
        ask=question.ask,
        factor=None if isinstance(question.subject, Lead) else question.subject,
        yes=yes,
        compared=compared,
        threshold=question.threshold,
        source=question.source,
    )


def _alternatives(framework: Framework, profile: Profile, now: Decision, factor: Factor) -> Iterator[Profile]:
    """Yields the profiles that differ in one factor, the nearest first."""
    if factor in LEVELS:
        levels = list(LEVELS[factor])
        place = levels.index(getattr(profile, factor))
        for other in sorted(range(len(levels)), key=lambda at: (abs(at - place), at)):
            if other != place:
                yield with_level(profile, factor, levels[other])
    elif factor is Factor.LATENCY:
        limit = math.inf if profile.latency_limit_ms is None else profile.latency_limit_ms
        for step in (*sorted(framework.latency_steps(), key=lambda step: (abs(step - limit), -step)), None):
            yield replace(profile, latency_limit_ms=step)
    elif now.money is not None:
        even = now.money.break_even
        for volume in (_ANY_VOLUME,) if even is None else (even, even - 1):
            yield replace(profile, questions_per_month=volume)
