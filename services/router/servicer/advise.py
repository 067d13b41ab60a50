"""RouterService/Advise: a profile checked, the framework asked, its advice converted."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from services.router.advisor import Advisor, draw
from services.router.domain.advice import (
    Accuracy,
    Advice,
    ArmEvidence,
    Cell,
    Comparison,
    Contradiction,
    Costs,
    Evidence,
    Money,
    PathStep,
    Profile,
    Vote,
)
from services.router.domain.ports import Domains, EvidenceSource
from services.router.domain.profiles import MAX_LATENCY_MS, profile_of, table_of
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import advice_pb2

_WORDS = (
    "data_volatility",
    "domain_specificity",
    "compliance",
    "infrastructure_maturity",
    "explainability",
)
_PRICES = (
    "per_1000_input_tokens",
    "per_1000_output_tokens",
    "per_search",
    "per_embedding",
    "training",
    "serving_per_month",
)


class Adviser:
    """Answers RouterService/Advise for its servicer."""

    def __init__(
        self, advisor: Advisor, *, evidence: EvidenceSource, domains: Domains, default_timeout_s: float
    ) -> None:
        self._advisor = advisor
        self._evidence = evidence
        self._domains = domains
        self._default_timeout_s = default_timeout_s

    async def answer(self, request: advice_pb2.AdviseRequest) -> advice_pb2.AdviseResponse:
        """Returns the advice for a request; raises InvalidInput, NotFound, FailedPrecondition or PermissionDenied."""
        caller = call.require_role("user")
        domain = self._domains.find(request.domain, caller) if request.domain else None
        profile = checked(request.profile, domain.profile if domain else None)
        measured = None
        if domain is not None:
            left = call.remaining()
            measured = await self._evidence.gather(
                principal=caller,
                domain=domain.name,
                timeout_s=self._default_timeout_s if left is None else left,
            )
        advice = self._advisor.advise(profile, measured)
        return advice_pb2.AdviseResponse(
            advice=advice_to_proto(advice, profile),
            tree_svg=draw(self._advisor.framework, advice) if request.include_tree else "",
        )


def checked(wire: advice_pb2.DomainProfile, declared: Profile | None = None) -> Profile:
    """Returns the request's profile on the ground of the declared one; raises InvalidInput with all its faults."""
    said: dict[str, object] = {name: getattr(wire, name) or None for name in _WORDS}
    if wire.HasField("questions_per_month"):
        said["questions_per_month"] = wire.questions_per_month
    if wire.HasField("latency_limit"):
        limit = wire.latency_limit
        said["latency_limit_ms"] = limit.seconds * 1000 + limit.nanos / 1_000_000
    if wire.HasField("costs"):
        said["costs"] = _costs_of(wire.costs)
    ground = {} if declared is None else table_of(declared)
    try:
        return profile_of(ground | {key: value for key, value in said.items() if value is not None})
    except InvalidInput as error:
        faults = [_on_the_wire(fault) for fault in error.violations]
        raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults[:4]), faults) from None


def _on_the_wire(fault: FieldViolation) -> FieldViolation:
    if fault.field == "latency_limit_ms":
        return FieldViolation("profile.latency_limit", f"must be 1 ms to {MAX_LATENCY_MS // 60_000} minutes")
    return FieldViolation(f"profile.{fault.field}", fault.description)


def _costs_of(wire: advice_pb2.ProfileCosts) -> dict[str, object]:
    costs: dict[str, object] = {name: getattr(wire, name) for name in _PRICES}
    costs["currency"] = wire.currency or None
    costs["trainings_per_month"] = wire.trainings_per_month if wire.HasField("trainings_per_month") else None
    return costs


def advice_to_proto(advice: Advice, profile: Profile) -> advice_pb2.Advice:
    """Returns the wire form of an advice."""
    return advice_pb2.Advice(
        approach=advice.approach,
        pattern=advice.pattern,
        leaf_id=advice.leaf,
        reason=advice.reason,
        votes=[_vote(vote) for vote in advice.votes],
        tally=[advice_pb2.ApproachTally(approach=name, weight=weight) for name, weight in advice.tally.items()],
        open_weight=advice.open_weight,
        lean=advice.lean or "",
        path=[_step(step) for step in advice.path],
        flips=[
            advice_pb2.AdviceFlip(
                factor=flip.factor,
                declared=flip.declared,
                changed=flip.changed,
                approach=flip.approach,
                pattern=flip.pattern,
            )
            for flip in advice.flips
        ],
        conditions=advice.conditions,
        money=None if advice.money is None else _money(advice.money),
        evidence=None if advice.evidence is None else _evidence(advice.evidence),
        contradictions=[_contradiction(found) for found in advice.contradictions],
        comparison=[_row(row) for row in advice.comparison],
        profile=profile_to_proto(profile),
    )


def _vote(vote: Vote) -> advice_pb2.FactorVote:
    return advice_pb2.FactorVote(
        factor=vote.factor,
        value=vote.value,
        approach=vote.approach or "",
        weight=vote.weight,
        threshold=vote.threshold,
        because=vote.because,
        source=vote.source,
    )


def _step(step: PathStep) -> advice_pb2.DecisionPathStep:
    return advice_pb2.DecisionPathStep(
        question_id=step.question_id,
        ask=step.ask,
        factor=step.factor or "",
        yes=step.yes,
        compared=step.compared,
        threshold=step.threshold,
        source=step.source,
    )


def _money(money: Money) -> advice_pb2.AdviceMoney:
    return advice_pb2.AdviceMoney(
        currency=money.currency,
        rag_per_question=money.rag_per_question,
        finetuned_per_question=money.finetuned_per_question,
        hybrid_per_question=money.hybrid_per_question,
        training_per_month=money.training_per_month,
        break_even=money.break_even,
        cheaper=money.cheaper or "",
        rag_per_month=money.rag_per_month,
        finetuned_per_month=money.finetuned_per_month,
        hybrid_per_month=money.hybrid_per_month,
        assumptions=money.assumptions,
    )


def _evidence(evidence: Evidence) -> advice_pb2.DomainEvidence:
    found = evidence.collection
    return advice_pb2.DomainEvidence(
        arms=[_arm(arm) for arm in evidence.arms],
        collection=None
        if found is None
        else advice_pb2.CollectionEvidence(
            num_documents=found.num_documents,
            num_changed=found.num_changed,
            window_duration=_duration(timedelta(days=found.window_days)),
            settled=found.settled,
        ),
        escalated_share=evidence.escalated_share,
        unencrypted_adapters=evidence.unencrypted_adapters,
        missing=evidence.missing,
    )


def _arm(arm: ArmEvidence) -> advice_pb2.ArmEvidence:
    return advice_pb2.ArmEvidence(
        arm=arm.arm,
        num_answers=arm.num_answers,
        p95_duration=None if arm.p95_ms is None else _duration(timedelta(milliseconds=arm.p95_ms)),
        mean_input_tokens=arm.mean_input_tokens,
        mean_output_tokens=arm.mean_output_tokens,
        cited_share=arm.cited_share,
        abstained_share=arm.abstained_share,
        accuracy=_accuracy(arm.accuracy),
        feedback=_accuracy(arm.feedback),
        mean_cost=arm.mean_cost,
    )


def _accuracy(found: Accuracy | None) -> advice_pb2.ArmAccuracy | None:
    if found is None:
        return None
    return advice_pb2.ArmAccuracy(
        value=found.value,
        low=found.low,
        high=found.high,
        num_questions=found.num_questions,
        metric=found.metric,
    )


def _contradiction(found: Contradiction) -> advice_pb2.EvidenceContradiction:
    return advice_pb2.EvidenceContradiction(
        factor=found.factor or "",
        declared=found.declared,
        measured=found.measured,
        text=found.text,
        approach=found.approach or "",
        pattern=found.pattern,
    )


def _row(row: Comparison) -> advice_pb2.ComparisonRow:
    return advice_pb2.ComparisonRow(
        dimension=row.dimension, rag=_cell(row.rag), fine_tune=_cell(row.fine_tune), hybrid=_cell(row.hybrid)
    )


def _cell(cell: Cell) -> advice_pb2.ComparisonCell:
    return advice_pb2.ComparisonCell(text=cell.text, figure=cell.figure)


def profile_to_proto(profile: Profile) -> advice_pb2.DomainProfile:
    """Returns the wire form of a profile."""
    limit = profile.latency_limit_ms
    return advice_pb2.DomainProfile(
        **{name: str(getattr(profile, name)) for name in _WORDS},
        latency_limit=None if limit is None else _duration(timedelta(milliseconds=limit)),
        questions_per_month=profile.questions_per_month,
        costs=None if profile.costs is None else _costs(profile.costs),
    )


def _costs(costs: Costs) -> advice_pb2.ProfileCosts:
    return advice_pb2.ProfileCosts(
        **{name: getattr(costs, name) for name in _PRICES},
        currency=costs.currency,
        trainings_per_month=costs.trainings_per_month,
    )


def _duration(length: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(length)
    return message
