"""What was measured is held against what is declared, and is said where it speaks against it."""

from dataclasses import replace

import pytest

from services.router.advisor import Advisor, LiveEvidence, VerdictWindow, read
from services.router.advisor.evidence import measured_volatility
from services.router.advisor.window import AnswerWindow
from services.router.domain import Answer, Degradation, Draft, Lineage, Route, StageTiming, Usage
from services.router.domain.advice import (
    Approach,
    CollectionEvidence,
    Contradiction,
    DataVolatility,
    Evidence,
    Factor,
    Profile,
)
from services.router.domain.domains import DEFAULT_DOMAIN
from services.router.domains import OneDomain
from tandem.errors import TooLarge, Unavailable
from tests.fakes.advice import COSTS, FakeDocuments, accuracy, arm, changed, profile
from tests.fakes.router import ALICE
from tests.fakes.router_paths import CITATIONS

FRAMEWORK = read()
ADVISOR = Advisor(FRAMEWORK)
LINEAGE = Lineage("tiny", "ab" * 32, "answers", "cd" * 32)


def found(one: Profile, evidence: Evidence) -> tuple[Contradiction, ...]:
    return ADVISOR.advise(one, evidence).contradictions


def test_a_quarterly_collection_that_changes_every_week_is_contradicted() -> None:
    (said,) = found(profile(data_volatility="quarterly"), changed(14))
    assert said.factor is Factor.DATA_VOLATILITY
    assert said.text.startswith("declared quarterly, 14 documents changed this week")
    assert (said.declared, said.measured) == ("quarterly", "14 of 80 documents changed this week")
    assert (said.approach, said.pattern) == (Approach.RAG, "rag")  # what the measured rate would be advised


@pytest.mark.parametrize(
    ("num_changed", "of", "level"),
    [
        (0, 80, "static"),
        (1, 10_000, "static"),
        (1, 1000, "yearly"),
        (1, 200, "quarterly"),
        (4, 200, "monthly"),
        (14, 500, "weekly"),
        (14, 80, "daily"),
        (80, 80, "realtime"),
    ],
)
def test_the_measured_level_leaves_a_tenth_out_of_date_at_most(num_changed: int, of: int, level: str) -> None:
    seen = CollectionEvidence(num_documents=of, num_changed=num_changed)
    assert measured_volatility(FRAMEWORK, seen) is DataVolatility(level)


@pytest.mark.parametrize(
    ("declared", "evidence"),
    [
        ("daily", changed(14)),  # what is declared is as fast
        ("quarterly", changed(14, of=5000)),  # few of many: after a quarter most still holds
        ("yearly", changed(2, of=10)),  # two may be chance
        ("quarterly", changed(80, settled=False)),  # the collection was filled this week
        ("quarterly", changed(0)),
        ("monthly", changed(0)),
        ("quarterly", Evidence()),
        ("quarterly", changed(0, of=0)),
    ],
)
def test_what_fits_or_cannot_be_told_contradicts_nothing(declared: str, evidence: Evidence) -> None:
    assert found(profile(data_volatility=declared), evidence) == ()


def test_content_that_stands_still_contradicts_a_weekly_change() -> None:
    (said,) = found(profile(data_volatility="weekly"), changed(0))
    assert said.text == "declared weekly, no document of 80 changed in 7 days"


def test_a_limit_that_the_advised_policy_misses_is_said_with_those_that_keep_it() -> None:
    one = profile(data_volatility="daily", latency_limit_ms=500)
    arms = (arm("finetuned", 140.0), arm("rag", 640.4, num_answers=120), arm("cascade", 120.0, num_answers=19))
    (said,) = found(one, Evidence(arms=arms))
    assert said.text == (
        "declared a limit of 500 ms, measured p95 640 ms over 120 answers by rag; within it: finetuned (140 ms)"
    )
    assert found(one, Evidence(arms=(arm("rag", 499.0), arm("cascade", 2000.0)))) == ()
    assert found(one, Evidence(arms=(arm("rag", 640.0, num_answers=19),))) == ()
    (alone,) = found(one, Evidence(arms=(arm("rag", 640.0),)))
    assert "no policy that was measured kept it" in alone.text


def test_answers_without_sources_contradict_where_sources_are_required() -> None:
    one = profile(explainability="sources-required")
    (said,) = found(one, Evidence(arms=(arm("rag", cited_share=0.69),)))
    assert said.text == "sources are required, 31% of 100 answers by rag cited nothing"
    assert found(one, Evidence(arms=(arm("rag", cited_share=0.96),))) == ()
    assert found(profile(explainability="useful"), Evidence(arms=(arm("cascade", cited_share=0.1),))) == ()


def test_an_adapter_in_the_clear_contradicts_an_audit() -> None:
    (said,) = found(profile(compliance="audit"), Evidence(unencrypted_adapters=("answers",)))
    assert said.factor is Factor.COMPLIANCE
    assert "not encrypted at rest: answers" in said.text
    assert found(profile(), Evidence(unencrypted_adapters=("answers",))) == ()


def test_a_better_arm_beyond_the_intervals_contradicts_the_advice() -> None:
    arms = (arm("finetuned", accuracy=accuracy(0.42)), arm("rag", accuracy=accuracy(0.61)))
    (said,) = found(profile(), Evidence(arms=(*arms, arm("cascade", accuracy=accuracy(0.55)))))
    assert said.factor is None
    assert (said.approach, said.pattern) == (Approach.RAG, "rag")
    assert "finetuned is advised and reached F1 0.42 [0.37, 0.47], but F1 0.61" in said.text
    near = replace(arms[1], accuracy=accuracy(0.5))
    other = replace(arms[1], accuracy=accuracy(0.9, metric="EM"))
    oracle = arm("oracle", accuracy=accuracy(0.99))
    for evidence in (Evidence(arms=(arms[0], near, other, oracle)), Evidence(arms=arms[1:])):
        assert found(profile(), evidence) == ()


def test_what_people_find_less_often_right_than_the_evaluation_did_is_drift() -> None:
    judged = accuracy(0.5, metric="feedback")
    (said,) = found(profile(), Evidence(arms=(arm("rag", accuracy=accuracy(0.7), feedback=judged),)))
    assert (said.factor, said.approach, said.pattern) == (None, None, "")
    assert said.text.startswith("rag reached F1 0.70 [0.65, 0.75] when it was evaluated, of its newest judged answers ")
    assert "people found 0.50 [0.45, 0.55] of 300 right" in said.text
    for arms in (
        (arm("rag", accuracy=accuracy(0.6), feedback=judged),),  # the intervals touch
        (arm("rag", accuracy=accuracy(0.3), feedback=judged),),  # people are kinder than the evaluation
        (arm("rag", feedback=judged), arm("dual", accuracy=accuracy(0.7))),  # one figure each
    ):
        assert found(profile(), Evidence(arms=arms)) == ()


def test_the_comparison_is_filled_with_what_was_measured() -> None:
    arms = (arm("finetuned", 140.0, accuracy=accuracy(0.4)), arm("rag", 640.0, cited_share=0.9, abstained_share=0.1))
    evidence = replace(changed(2), arms=(*arms, arm("dual", 180.0), arm("cascade", 300.0)))
    one = profile(data_volatility="monthly", latency_limit_ms=150, costs=COSTS, questions_per_month=1000)
    rows = {row.dimension: row for row in ADVISOR.advise(one, evidence).comparison}
    latency = rows["Latency, p95 of an answer"]
    assert latency.rag.figure == "640 ms over 100 answers by rag"
    assert latency.hybrid.figure == "180 ms over 100 answers by dual"  # the pattern that is advised
    assert rows["Accuracy"].fine_tune.figure == "F1 0.40 [0.35, 0.45] over 300 questions by finetuned"
    assert rows["Sources of an answer"].rag.figure == "90% cited, of 100 answers by rag"
    assert rows["When nothing is known"].rag.figure == "10% abstained, of 100 answers by rag"
    assert rows["Cost of a month"].rag.figure == "2.69 EUR"
    assert rows["Cost of training"].rag.figure == ""
    assert rows["How soon a change is answered"].fine_tune.figure == "2 of 80 documents changed in 7 days"
    for row in ADVISOR.advise(profile()).comparison:
        assert all(cell.text for cell in (row.rag, row.fine_tune, row.hybrid))
        assert not any(cell.figure for cell in (row.rag, row.fine_tune, row.hybrid))


def answer(policy: str, route: Route, total_s: float, *, draft_s: float = 0.0, **changes: object) -> Answer:
    timings = (StageTiming("generate.finetuned", draft_s), StageTiming("total", total_s))
    draft = Draft(route=route, text="t", citations=CITATIONS if route is Route.RAG else (), lineage=LINEAGE)
    made = Answer(
        answer_id="a",
        policy=policy,
        rewritten_question="q",
        draft=draft,
        steps=(),
        usage=Usage(100, 10),
        timings=timings,
    )
    return replace(made, **changes)


def test_the_window_tells_the_paths_apart() -> None:
    window = AnswerWindow(min_answers=4)
    for seconds in (0.1, 0.2):
        window.note(answer("finetuned", Route.FINETUNED, seconds), tenant="halden")
        window.note(answer("cascade", Route.FINETUNED, seconds + 0.2), tenant="halden")
    for _ in range(2):
        window.note(answer("cascade", Route.RAG, 0.9, draft_s=0.3, usage=Usage(800, 20)), tenant="halden")
        window.note(answer("rag", Route.RAG, 0.5, usage=Usage(700, 10)), tenant="halden")
    evidence = window.evidence(tenant="halden")
    by_name = {one.arm: one for one in evidence.arms}
    assert by_name["finetuned"].num_answers == by_name["rag"].num_answers == by_name["cascade"].num_answers == 4
    assert by_name["finetuned"].p95_ms == pytest.approx(400)
    assert by_name["rag"].p95_ms == pytest.approx(600)  # without the draft that was given up
    assert by_name["cascade"].p95_ms == pytest.approx(900)
    assert by_name["finetuned"].mean_input_tokens == 100
    assert by_name["rag"].mean_input_tokens is None  # an escalated answer's tokens are both paths'
    assert (by_name["rag"].cited_share, by_name["cascade"].cited_share) == (1, 0.5)
    assert evidence.escalated_share == 0.5
    assert evidence.unencrypted_adapters == ("answers",)
    assert window.evidence(tenant="brightwater") == Evidence()


def test_the_window_is_bounded_and_leaves_out_what_was_degraded() -> None:
    window = AnswerWindow(max_answers=3, max_domains=2, min_answers=1)
    for seconds in (9.0, 0.1, 0.2, 0.3):
        window.note(answer("rag", Route.RAG, seconds), tenant="a")
    window.note(answer("rag", Route.RAG, 8.0, degraded=(Degradation("embedder", "no vector"),)), tenant="a")
    (seen,) = window.evidence(tenant="a").arms
    assert (seen.num_answers, seen.p95_ms) == (3, pytest.approx(300))
    window.note(answer("rag", Route.RAG, 1.0), tenant="b")
    window.note(answer("rag", Route.RAG, 1.0), tenant="a")
    window.note(answer("rag", Route.RAG, 1.0), tenant="c", domain="claims")
    assert window.evidence(tenant="b").arms == ()  # the one that was asked least recently
    assert len(window.evidence(tenant="a").arms) == len(window.evidence(tenant="c", domain="claims").arms) == 1


def test_an_encrypted_adapter_takes_the_place_of_an_open_one() -> None:
    window = AnswerWindow(min_answers=1)
    window.note(answer("finetuned", Route.FINETUNED, 0.1), tenant="a")
    sealed = Draft(route=Route.FINETUNED, text="t", lineage=replace(LINEAGE, cipher="AES-256-GCM"))
    window.note(answer("finetuned", Route.FINETUNED, 0.1, draft=sealed), tenant="a")
    assert window.evidence(tenant="a").unencrypted_adapters == ()


async def test_live_evidence_says_what_it_lacks() -> None:
    window, verdicts, domains = AnswerWindow(min_answers=2), VerdictWindow(), OneDomain(DEFAULT_DOMAIN)
    counts = CollectionEvidence(num_documents=45, num_changed=3)
    documents = FakeDocuments(counts)
    live = LiveEvidence(window, documents, domains=domains, verdicts=verdicts)
    nothing = await live.gather(principal=ALICE, domain="default", timeout_s=1)
    assert nothing.collection == counts
    assert nothing.missing == (
        "answers: none were given in this domain since the router started",
        "accuracy: the domain has no results of `tandem evaluate arms`, and of no policy were 30 answers judged "
        "(at most 0)",
    )
    window.note(answer("rag", Route.RAG, 0.5), tenant="halden")
    for error in (Unavailable("the retriever is down"), TooLarge("more than 10,000 documents are not counted")):
        documents.held = error
        some = await live.gather(principal=ALICE, domain="default", timeout_s=1)
        assert some.collection is None
        assert some.missing[0] == f"how the documents change: {error.message}"
        assert some.missing[1] == "rag: 1 of 2 answers that it takes"
