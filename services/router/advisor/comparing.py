"""The comparison of the three approaches over all dimensions, with figures where there are any."""

from services.router.advisor.framework import Dimension, Framework
from services.router.advisor.money import amount
from services.router.domain.advice import Approach, ArmEvidence, Cell, Comparison, Evidence, Money

_ONE = {Approach.RAG: "rag", Approach.FINE_TUNE: "finetuned"}


def compare(
    framework: Framework, *, money: Money | None, evidence: Evidence | None, hybrid: str = "cascade"
) -> tuple[Comparison, ...]:
    """Returns a row for each dimension; `hybrid` is the policy whose figures stand for hybrids."""
    arms = _ONE | {Approach.HYBRID: hybrid}
    return tuple(
        Comparison(
            dimension=dimension.name,
            **{
                approach.name.lower(): Cell(
                    dimension.texts[approach], _figure(dimension, approach, arms[approach], money, evidence)
                )
                for approach in Approach
            },
        )
        for dimension in framework.dimensions
    )


def _figure(dimension: Dimension, approach: Approach, arm: str, money: Money | None, evidence: Evidence | None) -> str:
    if dimension.figure in ("per_question", "training", "per_month"):
        return "" if money is None else _sum(dimension.figure, approach, money)
    if dimension.figure == "changes":
        found = None if evidence is None else evidence.collection
        if found is None or not found.settled or approach is Approach.RAG:
            return ""
        return f"{found.num_changed:,} of {found.num_documents:,} documents changed in {found.window_days} days"
    measured = None if evidence is None else evidence.arm(arm)
    return "" if measured is None else _measured(dimension.figure, measured)


def _sum(figure: str, approach: Approach, money: Money) -> str:
    question = {
        Approach.RAG: money.rag_per_question,
        Approach.FINE_TUNE: money.finetuned_per_question,
        Approach.HYBRID: money.hybrid_per_question,
    }
    month = {
        Approach.RAG: money.rag_per_month,
        Approach.FINE_TUNE: money.finetuned_per_month,
        Approach.HYBRID: money.hybrid_per_month,
    }
    if figure == "per_question":
        return amount(question[approach], money.currency)
    if figure == "training":
        return "" if approach is Approach.RAG else f"{amount(money.training_per_month, money.currency)} a month"
    total = month[approach]
    return "" if total is None else amount(total, money.currency)


def _measured(figure: str, arm: ArmEvidence) -> str:
    over = f"{arm.num_answers:,} answers by {arm.arm}"
    if figure == "p95":
        return "" if arm.p95_ms is None else f"{arm.p95_ms:.0f} ms over {over}"
    if figure == "accuracy":
        found = arm.accuracy or arm.feedback
        if found is None:
            return ""
        return (
            f"{found.metric} {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] "
            f"over {found.num_questions:,} questions by {arm.arm}"
        )
    share = {"cited": arm.cited_share, "abstained": arm.abstained_share}.get(figure)
    return "" if share is None else f"{share:.0%} {figure}, of {over}"
