"""Money: the break-even is where it is said to be, and every assumption is told."""

import pytest
from hypothesis import given, settings

from services.router.advisor import read
from services.router.advisor.money import amount, weigh
from services.router.domain.advice import Approach, Evidence, Money, Profile
from tests.fakes.advice import COSTS, PROFILES, arm, profile

FRAMEWORK = read()


def money(evidence: Evidence | None = None, **changes: object) -> Money:
    found = weigh(FRAMEWORK, profile(**{"costs": COSTS, **changes}), evidence)
    assert found is not None
    return found


def test_a_question_costs_its_tokens_its_search_and_its_embedding() -> None:
    found = money()
    assert found.rag_per_question == pytest.approx((900 * 0.002 + 48 * 0.006) / 1000 + 0.0005 + 0.0001)
    assert found.finetuned_per_question == pytest.approx((60 * 0.002 + 48 * 0.006) / 1000)
    assert found.hybrid_per_question == pytest.approx(found.finetuned_per_question + found.rag_per_question / 2)


def test_training_is_paid_as_often_as_the_content_changes_unless_told() -> None:
    monthly, quarterly = money(data_volatility="monthly"), money(data_volatility="quarterly")
    assert monthly.training_per_month == pytest.approx(120)
    assert quarterly.training_per_month == pytest.approx(40, rel=0.001)
    told = money(costs={**vars(COSTS), "trainings_per_month": 0.5, "serving_per_month": 30})
    assert told.training_per_month == pytest.approx(90)
    assert any("trainings a month, because" in words for words in quarterly.assumptions)
    assert not any("trainings a month, because" in words for words in told.assumptions)


def test_from_the_break_even_on_fine_tuning_costs_less() -> None:
    even = money().break_even
    assert even == 17_543
    before, at = money(questions_per_month=even - 1), money(questions_per_month=even)
    assert (before.cheaper, at.cheaper) == (Approach.RAG, Approach.FINE_TUNE)
    assert before.finetuned_per_month >= before.rag_per_month
    assert at.finetuned_per_month < at.rag_per_month


def test_where_retrieval_is_not_dearer_nothing_pays_for_a_training() -> None:
    free = money(costs={"training": 10.0}, questions_per_month=10**9)
    assert (free.break_even, free.cheaper) == (None, Approach.RAG)
    assert money(costs=COSTS).cheaper is None  # no volume was told
    assert weigh(FRAMEWORK, profile(), None) is None


def test_measured_tokens_and_escalations_take_the_place_of_assumed_ones() -> None:
    evidence = Evidence(
        arms=(arm("rag", mean_input_tokens=300.0, mean_output_tokens=10.0, num_answers=40), arm("finetuned")),
        escalated_share=0.25,
    )
    found = money(evidence)
    assert found.rag_per_question == pytest.approx((300 * 0.002 + 10 * 0.006) / 1000 + 0.0006)
    assert found.hybrid_per_question == pytest.approx(found.finetuned_per_question + found.rag_per_question / 4)
    assert "300 tokens read and 10 written by rag: measured over 40 answers" in found.assumptions
    assert "60 tokens read and 48 written by finetuned: assumed, nothing was measured" in found.assumptions
    assert any("escalates 25% of its questions: measured" in words for words in found.assumptions)


@settings(deadline=None)
@given(PROFILES)
def test_the_cheaper_approach_is_the_one_with_the_lower_month(one: Profile) -> None:
    found = weigh(FRAMEWORK, one, None)
    if found is None or found.cheaper is None:
        return
    least, most = (found.finetuned_per_month, found.rag_per_month)[:: 1 if found.cheaper is Approach.FINE_TUNE else -1]
    assert least <= most * (1 + 1e-9) + 1e-9


def test_small_amounts_keep_the_decimals_that_matter() -> None:
    assert [amount(value, "EUR") for value in (0, 0.000408, 0.0123, 1.5, 12345.678)] == [
        "0.00 EUR",
        "0.00041 EUR",
        "0.012 EUR",
        "1.50 EUR",
        "12,345.68 EUR",
    ]
