"""The decision framework: each profile ends in one leaf, and what is told about it is so."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import example, given, settings

from services.router.advisor import Advisor, read
from services.router.advisor.deciding import decide, flips, told, with_level
from services.router.domain.advice import LEVELS, PATTERNS, Approach, Costs, Factor, Profile
from tests.fakes.advice import COSTS, PROFILES, profile

FRAMEWORK = read()
ADVISOR = Advisor(FRAMEWORK)


def end(**changes: object) -> str:
    return decide(FRAMEWORK, profile(**changes)).leaf.id


@pytest.mark.parametrize(
    ("changes", "leaf"),
    [
        # The guide's anchors, each by itself.
        ({"compliance": "records-stay-external"}, "rag-external"),
        ({"compliance": "audit"}, "finetuned-stable"),
        ({"explainability": "sources-required"}, "rag-sources"),
        ({"data_volatility": "daily"}, "rag-volatile"),
        ({"data_volatility": "weekly"}, "rag-volatile"),
        ({"data_volatility": "quarterly"}, "finetuned-stable"),
        ({"data_volatility": "static"}, "finetuned-stable"),
        # Anchors that pull apart make hybrids.
        ({"data_volatility": "weekly", "latency_limit_ms": 200}, "dual-volatile"),
        ({"data_volatility": "weekly", "latency_limit_ms": 201}, "rag-volatile"),
        ({"explainability": "sources-required", "domain_specificity": "proprietary-language"}, "ensemble-language"),
        ({"domain_specificity": "specialised", "explainability": "useful"}, "cascade-stable"),
        (
            {
                "data_volatility": "weekly",
                "domain_specificity": "proprietary-language",
                "costs": COSTS,
                "questions_per_month": 10**6,
            },
            "cascade-volatile",
        ),
        ({"data_volatility": "monthly"}, "cascade-monthly"),
        ({"data_volatility": "monthly", "latency_limit_ms": 150}, "dual-monthly"),
        (
            {
                "data_volatility": "monthly",
                "domain_specificity": "general",
                "costs": COSTS,
                "questions_per_month": 100,
            },
            "rag-monthly",
        ),
        # Nothing is trained where nothing can be.
        ({"infrastructure_maturity": "vector-store"}, "rag-untrained"),
    ],
)
def test_a_profile_ends_where_the_guide_says(changes: dict[str, object], leaf: str) -> None:
    assert end(**changes) == leaf


def test_every_leaf_is_advised_to_somebody() -> None:
    ends = set()
    prices = ({}, {"costs": COSTS, "questions_per_month": 0}, {"costs": COSTS, "questions_per_month": 10**9})
    for levels in product(*LEVELS.values()):
        for limit, money in product((None, 100, 300), prices):
            said = dict(zip((factor.value for factor in LEVELS), levels, strict=True))
            ends.add(decide(FRAMEWORK, profile(**said, latency_limit_ms=limit, **money)).leaf.id)
    assert ends == set(FRAMEWORK.leaves)


@settings(deadline=None)
@given(PROFILES)
def test_a_profile_gives_one_advice_at_the_end_of_its_path(one: Profile) -> None:
    found = decide(FRAMEWORK, one)
    assert found == decide(FRAMEWORK, one)
    assert found.leaf.pattern in PATTERNS[found.leaf.approach]
    node = FRAMEWORK.root
    for step in found.path:
        assert step.question_id == node
        node = FRAMEWORK.questions[node].yes if step.yes else FRAMEWORK.questions[node].no
    assert node == found.leaf.id


@settings(deadline=None)
@given(PROFILES)
def test_the_votes_sum_as_told(one: Profile) -> None:
    advice = ADVISOR.advise(one)
    assert [vote.factor for vote in advice.votes] == list(Factor)
    for approach in Approach:
        assert advice.tally[approach] == sum(vote.weight for vote in advice.votes if vote.approach is approach)
    assert sum(advice.tally.values()) + advice.open_weight == sum(voter.weight for voter in FRAMEWORK.voters)
    most = max(advice.tally.values())
    leading = [approach for approach in Approach if advice.tally[approach] == most]
    assert advice.lean == (leading[0] if len(leading) == 1 else None)


def _changed(one: Profile, factor: Factor, words: str) -> Profile:
    """Returns the profile after a change that is told in words."""
    if factor is Factor.LATENCY:
        return replace(one, latency_limit_ms=None if words == "no limit" else float(words.removesuffix(" ms")))
    if factor is Factor.BUDGET:
        return replace(one, questions_per_month=int(words.split(" ")[0].replace(",", "")))
    return with_level(one, factor, words)


@settings(max_examples=60, deadline=None)
@given(PROFILES)
@example(profile(data_volatility="monthly", domain_specificity="general", costs=Costs()))  # no break-even
def test_every_flip_flips_and_none_is_missing(one: Profile) -> None:
    now = decide(FRAMEWORK, one).leaf
    found = flips(FRAMEWORK, one)
    for flip in found:
        then = decide(FRAMEWORK, _changed(one, flip.factor, flip.changed)).leaf
        assert (then.approach, then.pattern) == (flip.approach, flip.pattern)
        assert (then.approach, then.pattern) != (now.approach, now.pattern)
    told_of = {(flip.factor, flip.approach, flip.pattern) for flip in found}
    others = [with_level(one, factor, level) for factor, kind in LEVELS.items() for level in kind]
    others += [replace(one, latency_limit_ms=float(limit)) for limit in (1, 150, 200, 201, 350, 499, 500, 5000)]
    others += [replace(one, questions_per_month=volume) for volume in (0, 10**15)]
    for other in others:
        factor = next((each for each in Factor if _value(each, other) != _value(each, one)), None)
        then = decide(FRAMEWORK, other).leaf
        if factor is not None and (then.approach, then.pattern) != (now.approach, now.pattern):
            assert (factor, then.approach, then.pattern) in told_of
    same = [flip.approach is now.approach for flip in found]
    assert same == sorted(same)  # what changes the approach comes first


def _value(factor: Factor, one: Profile) -> object:
    figures = {Factor.LATENCY: one.latency_limit_ms, Factor.BUDGET: one.questions_per_month}
    return figures[factor] if factor in figures else getattr(one, factor)


def test_the_nearest_change_of_a_factor_is_told_for_each_other_advice() -> None:
    found = flips(FRAMEWORK, profile(data_volatility="static", latency_limit_ms=900))
    changes = [(flip.changed, flip.pattern) for flip in found if flip.factor is Factor.DATA_VOLATILITY]
    assert changes == [("monthly", "cascade"), ("weekly", "rag")]
    assert [flip.changed for flip in found if flip.factor is Factor.LATENCY] == ["499 ms"]
    realtime = flips(FRAMEWORK, profile(data_volatility="realtime", latency_limit_ms=900))
    assert [flip.changed for flip in realtime if flip.factor is Factor.LATENCY] == ["200 ms"]


def test_a_rule_decides_before_votes_and_both_are_told() -> None:
    advice = ADVISOR.advise(profile(compliance="records-stay-external", latency_limit_ms=100))
    assert (advice.approach, advice.lean) == (Approach.RAG, Approach.FINE_TUNE)
    assert [step.question_id for step in advice.path] == ["external"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compliance": "audit"}, "encryption and audit controls"),
        ({"compliance": "records-stay-external"}, "not among the records"),
        ({"compliance": "records-stay-external", "latency_limit_ms": 150}, "not promised|No path that reads"),
        ({"data_volatility": "weekly", "latency_limit_ms": 150}, "drift must be watched"),
    ],
)
def test_an_advice_says_what_must_be_seen_to(changes: dict[str, object], words: str) -> None:
    conditions = ADVISOR.advise(profile(**changes)).conditions
    assert any(word in condition for condition in conditions for word in words.split("|"))


def test_values_are_told_in_words() -> None:
    one = profile(latency_limit_ms=180, questions_per_month=20000, costs=COSTS)
    money = decide(FRAMEWORK, one).money
    assert told(Factor.LATENCY, one, money) == "180 ms"
    assert told(Factor.BUDGET, one, money) == "20,000 questions a month, break-even at 17,543"
    assert told(Factor.BUDGET, profile(), None) == "untold questions a month, no prices"
    assert told(Factor.LATENCY, profile(), None) == "no limit"
