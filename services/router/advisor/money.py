"""What answers cost: paying by the question for retrieval, against training that is paid for once."""

import math

from services.router.advisor.framework import Framework, Workload
from services.router.domain.advice import Approach, ArmEvidence, Costs, Evidence, Money, Profile

_NEVER = 10**15
"""Questions a month that nobody has: a break-even beyond it is none."""


def weigh(framework: Framework, profile: Profile, evidence: Evidence | None) -> Money | None:
    """Returns the costs of a question and of a month, and the break-even; None where no prices are told.

    break-even = cost of training a month / (cost of a question by retrieval - cost of one by the adapter), rounded up
    to the first whole number of questions at which fine-tuning costs less; none where a retrieved answer is not dearer.
    A hybrid is taken to be a cascade: the adapter each time, retrieval for the share that escalates.
    """
    costs = profile.costs
    if costs is None:
        return None
    told: list[str] = []
    work = framework.workload
    rag = _rag_question(costs, work, evidence, told)
    finetuned = _finetuned_question(costs, work, evidence, told)
    escalated = _escalated(work, evidence, told)
    trainings = costs.trainings_per_month
    if trainings is None:
        trainings = framework.trainings_per_month[profile.data_volatility]
        told.append(f"{trainings:g} trainings a month, because the content changes {profile.data_volatility}")
    fixed = costs.training * trainings + costs.serving_per_month
    told.append("a training costs the same each time, and a hybrid trains as often as fine-tuning")
    told.append("standing costs of machines, of the vector store and of people are not counted")
    volume = profile.questions_per_month
    totals = {
        Approach.RAG: _month(volume, rag),
        Approach.FINE_TUNE: _month(volume, finetuned, fixed),
        Approach.HYBRID: _month(volume, finetuned + escalated * rag, fixed),
    }
    return Money(
        currency=costs.currency,
        rag_per_question=rag,
        finetuned_per_question=finetuned,
        hybrid_per_question=finetuned + escalated * rag,
        training_per_month=fixed,
        break_even=_break_even(fixed, rag, finetuned),
        cheaper=_cheaper(volume, fixed=fixed, rag=rag, finetuned=finetuned),
        rag_per_month=totals[Approach.RAG],
        finetuned_per_month=totals[Approach.FINE_TUNE],
        hybrid_per_month=totals[Approach.HYBRID],
        assumptions=tuple(told),
    )


def amount(value: float, currency: str) -> str:
    """Returns a sum of money in words, with as many decimals as it takes to see it."""
    decimals = 2 if value == 0 or value >= 1 else min(8, 1 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f} {currency}"


def _rag_question(costs: Costs, work: Workload, evidence: Evidence | None, told: list[str]) -> float:
    read, written = _tokens("rag", work.rag_input_tokens, work.output_tokens, evidence, told)
    told.append("a retrieved answer embeds the question once and searches once")
    return _tokens_cost(costs, read, written) + costs.per_search + costs.per_embedding


def _finetuned_question(costs: Costs, work: Workload, evidence: Evidence | None, told: list[str]) -> float:
    read, written = _tokens("finetuned", work.finetuned_input_tokens, work.output_tokens, evidence, told)
    return _tokens_cost(costs, read, written)


def _tokens(arm: str, read: float, written: float, evidence: Evidence | None, told: list[str]) -> tuple[float, float]:
    measured: ArmEvidence | None = evidence.arm(arm) if evidence is not None else None
    if measured is not None and measured.mean_input_tokens is not None and measured.mean_output_tokens is not None:
        read, written = measured.mean_input_tokens, measured.mean_output_tokens
        origin = f"measured over {measured.num_answers} answers"
    else:
        origin = "assumed, nothing was measured"
    told.append(f"{read:.0f} tokens read and {written:.0f} written by {arm}: {origin}")
    return read, written


def _escalated(work: Workload, evidence: Evidence | None, told: list[str]) -> float:
    measured = evidence.escalated_share if evidence is not None else None
    share = work.escalated_share if measured is None else measured
    origin = "assumed, nothing was measured" if measured is None else "measured"
    told.append(f"a hybrid costs what a cascade costs that escalates {share:.0%} of its questions: {origin}")
    return share


def _tokens_cost(costs: Costs, read: float, written: float) -> float:
    return (read * costs.per_1000_input_tokens + written * costs.per_1000_output_tokens) / 1000


def _month(volume: int | None, question: float, fixed: float = 0.0) -> float | None:
    return None if volume is None else volume * question + fixed


def _cheaper(volume: int | None, *, fixed: float, rag: float, finetuned: float) -> Approach | None:
    """Returns the approach that costs less in a month; retrieval where both cost the same, None without a volume."""
    if volume is None:
        return None
    least = _break_even(fixed, rag, finetuned)
    return Approach.FINE_TUNE if least is not None and volume >= least else Approach.RAG


def _break_even(fixed: float, rag: float, finetuned: float) -> int | None:
    saved = rag - finetuned
    if saved <= 0 or fixed / _NEVER >= saved:
        return None
    return math.floor(fixed / saved) + 1
