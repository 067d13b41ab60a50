"""auto chooses by what was measured, within the profile's limits, else by the profile, and says why."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.advice import (
    Compliance,
    DataVolatility,
    DomainSpecificity,
    Explainability,
    InfrastructureMaturity,
    Profile,
)
from services.router.domain.domains import ArmResult
from services.router.policies import build
from services.router.policies.auto import best_of
from tests.fakes.router import DOMAIN
from tests.fakes.router_paths import FakePaths

PROFILE = Profile(
    data_volatility=DataVolatility.WEEKLY,
    domain_specificity=DomainSpecificity.SPECIALISED,
    compliance=Compliance.NONE,
    infrastructure_maturity=InfrastructureMaturity.GPU_TRAINING,
    explainability=Explainability.NONE,
)


def arm(
    policy: str,
    accuracy: float,
    *,
    width: float = 0.02,
    num_questions: int = 200,
    behind: dict[str, float] | None = None,
    **prices: float,
) -> ArmResult:
    return ArmResult(
        behind=behind or {},
        policy=policy,
        accuracy=accuracy,
        low=accuracy - width,
        high=accuracy + width,
        num_questions=num_questions,
        metric="em",
        **prices,
    )


async def chosen(
    *results: ArmResult, profile: Profile | None = None, pattern: str = "rag", **fields: Any
) -> tuple[str, str]:
    paths = FakePaths(domain=replace(DOMAIN, results=results, profile=profile, **fields))
    await build(pattern=lambda _: pattern)["auto"].decide(paths)
    assert paths.kinds()[0] == "choose:none"
    name, _, reason = paths.steps[0].reason.partition(": ")
    return name, reason


async def test_the_most_accurate_policy_is_chosen_with_its_figures():
    name, reason = await chosen(arm("rag", 0.6), arm("cascade", 0.8), arm("finetuned", 0.5))
    assert name == "cascade"
    assert reason == "em 0.800 [0.780, 0.820] on 200 questions"


async def test_of_policies_that_may_be_as_accurate_the_cheapest_is_chosen():
    results = (arm("ensemble", 0.8, cost=0.04), arm("rag", 0.79, cost=0.02), arm("finetuned", 0.5, cost=0.01))
    name, reason = await chosen(*results)
    assert name == "rag"
    assert "no less than the best shown, ensemble at 0.800" in reason
    assert "0.02 an answer" in reason


async def test_what_the_same_questions_show_to_be_worse_is_not_taken_for_its_price():
    def results(least: float) -> list[ArmResult]:
        cheap = arm("rag", 0.75, width=0.1, cost=0.01, behind={"dual": least, "cascade": -0.2})
        return [arm("dual", 0.8, width=0.1, cost=0.04), cheap]

    assert (await chosen(*results(0.01)))[0] == "dual"
    assert (await chosen(*results(0.0)))[0] == "rag"


async def test_without_costs_the_calls_and_then_the_time_tell_what_is_cheaper():
    assert (await chosen(arm("dual", 0.8, num_calls=4.0, cost=0.1), arm("rag", 0.8, num_calls=3.0)))[0] == "rag"
    assert (await chosen(arm("dual", 0.81, p95_ms=90.0), arm("rag", 0.8, p95_ms=80.0)))[0] == "rag"
    assert (await chosen(arm("dual", 0.81), arm("rag", 0.8, p95_ms=80.0)))[0] == "dual"


async def test_what_misses_the_profile_is_out():
    hurried = replace(PROFILE, latency_limit_ms=200.0)
    results = (arm("rag", 0.9, p95_ms=400.0), arm("finetuned", 0.6, p95_ms=100.0), arm("dual", 0.8))
    assert (await chosen(*results, profile=hurried))[0] == "finetuned"
    sourced = replace(PROFILE, explainability=Explainability.SOURCES_REQUIRED)
    assert (await chosen(arm("finetuned", 0.9), arm("rag", 0.6), profile=sourced))[0] == "rag"


async def test_what_misses_the_domains_objective_is_out():
    results = (arm("rag", 0.9, p95_ms=400.0), arm("finetuned", 0.6, p95_ms=100.0))
    assert (await chosen(*results, latency_objective_ms=200.0))[0] == "finetuned"
    assert (await chosen(*results, latency_objective_ms=500.0))[0] == "rag"


@pytest.mark.parametrize(
    ("profile", "fields"),
    [
        (PROFILE, {"answer_adapter": ""}),
        (replace(PROFILE, compliance=Compliance.RECORDS_STAY_EXTERNAL), {}),
        (replace(PROFILE, explainability=Explainability.SOURCES_REQUIRED), {}),
    ],
)
async def test_weights_alone_are_out_where_they_cannot_or_may_not_answer(profile: Profile, fields: dict[str, Any]):
    assert (await chosen(arm("finetuned", 0.9), arm("rag", 0.6), profile=profile, **fields))[0] == "rag"
    name, reason = await chosen(profile=profile, pattern="finetuned", **fields)
    assert name == "rag"
    assert "cannot answer here" in reason


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ((), "nothing was measured"),
        ((arm("finetuned", 0.9, num_questions=29),), "nothing was measured"),
        ((arm("oracle", 0.9),), "nothing was measured"),
        ((arm("dual", 0.9, p95_ms=900.0),), "no policy that was measured meets its limits"),
    ],
)
async def test_without_a_measurement_that_counts_the_profile_is_asked(results: tuple[ArmResult, ...], why: str):
    name, reason = await chosen(*results, profile=replace(PROFILE, latency_limit_ms=200.0))
    assert name == "rag"
    assert reason.startswith(why)


async def test_without_results_and_profile_it_is_the_cascade():
    assert await chosen() == ("cascade", "nothing was measured in this domain, and it has no profile")


arms = st.lists(
    st.builds(
        arm,
        st.sampled_from(["rag", "dual", "cascade", "ensemble", "finetuned"]),
        st.floats(0, 1),
        width=st.floats(0, 0.2),
        cost=st.floats(0, 1),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.policy,
)


@given(arms)
def test_the_chosen_one_may_be_the_best_and_no_such_one_is_cheaper(measured: list[ArmResult]):
    name, _ = best_of(measured)
    best = max(one.accuracy for one in measured)
    (choice,) = (one for one in measured if one.policy == name)
    assert choice.high >= best
    assert all(one.cost >= choice.cost for one in measured if one.high >= best)
