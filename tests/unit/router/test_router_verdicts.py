"""What verdicts say of each policy, and where it stands beside an evaluation."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.advisor import AnswerWindow, LiveEvidence, VerdictWindow
from services.router.advisor.verdicts import wilson
from services.router.domain.advice import Accuracy, CollectionEvidence
from services.router.domain.domains import DEFAULT_DOMAIN, ArmResult
from services.router.domain.feedback import Feedback, Verdict
from services.router.domains import OneDomain
from tests.fakes.advice import FakeDocuments
from tests.fakes.router import ALICE


def said(answer_id: str, verdict: Verdict, *, policy: str = "rag", tenant: str = "halden", **more: str) -> Feedback:
    return Feedback(
        answer_id=answer_id,
        tenant=tenant,
        subject="alice",
        number=1,
        verdict=verdict,
        submitted=datetime(2026, 3, 1, tzinfo=UTC),
        policy=policy,
        **more,  # type: ignore[arg-type]
    )


def heard(*feedback: Feedback, **limits: int) -> VerdictWindow:
    window = VerdictWindow(**limits)
    for one in feedback:
        window.note(one)
    return window


def test_an_edited_answer_was_not_right_and_the_newest_verdict_counts() -> None:
    window = heard(
        said("a", Verdict.WRONG), said("b", Verdict.EDITED), said("c", Verdict.RIGHT), said("a", Verdict.RIGHT),
        min_answers=3,
    )  # fmt: skip
    found = window.accuracy(tenant="halden", domain="default")["rag"]
    assert (found.value, found.num_questions, found.metric) == (pytest.approx(2 / 3), 3, "feedback")


def test_policies_domains_and_tenants_are_kept_apart() -> None:
    window = heard(
        said("a", Verdict.RIGHT), said("b", Verdict.WRONG, policy="dual"),
        said("c", Verdict.WRONG, tenant="brightwater"), said("d", Verdict.WRONG, domain="claims"), min_answers=1,
    )  # fmt: skip
    assert {name: one.value for name, one in window.accuracy(tenant="halden", domain="default").items()} == {
        "rag": 1.0, "dual": 0.0,
    }  # fmt: skip
    assert window.counts(tenant="halden", domain="claims") == {"rag": 1}
    assert window.counts(tenant="elsewhere", domain="default") == {}


def test_few_verdicts_are_no_accuracy_and_the_oldest_go_first() -> None:
    window = heard(*(said(str(number), Verdict.RIGHT) for number in range(29)))
    assert window.accuracy(tenant="halden", domain="default") == {}
    window.note(said("29", Verdict.WRONG))
    assert window.accuracy(tenant="halden", domain="default")["rag"].num_questions == 30
    small = heard(*(said(str(number), Verdict(("wrong", "right")[number > 2])) for number in range(6)), max_answers=3)
    small.min_answers = 1
    assert small.accuracy(tenant="halden", domain="default")["rag"].value == 1.0
    few = heard(said("a", Verdict.RIGHT), said("b", Verdict.RIGHT, domain="x"), said("c", Verdict.RIGHT, domain="y"),
                max_domains=2)  # fmt: skip
    assert few.counts(tenant="halden", domain="default") == {}


@pytest.mark.parametrize(("share", "num", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775)])
def test_the_interval_is_wilsons(share: float, num: int, low: float, high: float) -> None:
    # Of none among n the upper end is z^2 / (n + z^2).
    assert wilson(share, num) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 10_000).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_the_interval_holds_the_share(counted: tuple[int, int]) -> None:
    right, num = counted
    low, high = wilson(right / num, num)
    assert 0 <= low <= right / num + 1e-12
    assert right / num - 1e-12 <= high <= 1


async def test_people_and_the_evaluation_stand_side_by_side_in_the_evidence() -> None:
    result = ArmResult(policy="dual", metric="f1", accuracy=0.8, low=0.75, high=0.85, num_questions=300)
    domain = replace(DEFAULT_DOMAIN, results=(result,))
    window = heard(*(said(str(number), Verdict.WRONG, policy="dual") for number in range(30)))
    documents = FakeDocuments(CollectionEvidence(num_documents=45, num_changed=3))
    live = LiveEvidence(AnswerWindow(), documents, domains=OneDomain(domain), verdicts=window)
    found = await live.gather(principal=ALICE, domain="", timeout_s=1)
    (arm,) = found.arms
    assert arm.accuracy == Accuracy(0.8, 0.75, 0.85, 300, "f1")
    assert arm.feedback is not None
    assert (arm.feedback.value, arm.feedback.num_questions) == (0.0, 30)
    assert not any("accuracy" in one for one in found.missing)
