"""From the domain to the wire, by hand."""

from datetime import timedelta

from services.router.domain import (
    Answer,
    Citation,
    Cited,
    DecisionStep,
    Delta,
    Event,
    Lineage,
    Passage,
    Route,
    Span,
    Started,
    StepKind,
)
from services.router.domain.calibration import FEATURE_NAMES, Features
from services.router.domain.grounding import Groundedness, GroundingStatus
from tandem.v1 import common_pb2, router_service_pb2

ROUTES = {
    Route.NONE: router_service_pb2.ROUTE_UNSPECIFIED,
    Route.FINETUNED: router_service_pb2.ROUTE_FINETUNED,
    Route.RAG: router_service_pb2.ROUTE_RAG,
    Route.ENSEMBLE: router_service_pb2.ROUTE_ENSEMBLE,
}
_GROUNDED = {
    GroundingStatus.MEASURED: router_service_pb2.Groundedness.STATUS_MEASURED,
    GroundingStatus.PARTIAL: router_service_pb2.Groundedness.STATUS_PARTIAL,
    GroundingStatus.NOTHING_SAID: router_service_pb2.Groundedness.STATUS_NOTHING_SAID,
    GroundingStatus.NO_PASSAGES: router_service_pb2.Groundedness.STATUS_NO_PASSAGES,
}
_KINDS = {
    StepKind.CHOOSE: router_service_pb2.DecisionStep.KIND_CHOOSE,
    StepKind.ACCEPT: router_service_pb2.DecisionStep.KIND_ACCEPT,
    StepKind.ESCALATE: router_service_pb2.DecisionStep.KIND_ESCALATE,
    StepKind.FALL_BACK: router_service_pb2.DecisionStep.KIND_FALL_BACK,
    StepKind.ABSTAIN: router_service_pb2.DecisionStep.KIND_ABSTAIN,
}


def event_to_proto(event: Event) -> router_service_pb2.StreamAskResponse:
    """Returns the wire form of what happened on the way."""
    response = router_service_pb2.StreamAskResponse
    if isinstance(event, Started):
        return response(
            started=router_service_pb2.AnswerStarted(
                answer_id=event.answer_id,
                policy=event.policy,
                rewritten_question=event.rewritten_question,
                domain=event.domain,
            )
        )
    if isinstance(event, DecisionStep):
        return response(decision=_step(event))
    if isinstance(event, Delta):
        return response(delta=router_service_pb2.AnswerDelta(text=event.text))
    if isinstance(event, Cited):
        return response(
            citations=router_service_pb2.AnswerCitations(
                citations=[citation_to_proto(citation) for citation in event.citations],
                groundedness=groundedness_to_proto(event.groundedness),
            )
        )
    return response(sources=router_service_pb2.AnswerSources(passages=[_passage(p) for p in event.passages]))


def answer_to_proto(answer: Answer) -> router_service_pb2.Answer:
    """Returns the wire form of an answer."""
    draft = answer.draft
    wire = router_service_pb2.Answer(
        answer_id=answer.answer_id,
        text=draft.text,
        abstained=draft.abstained,
        citations=[citation_to_proto(citation) for citation in draft.citations],
        passages=[_passage(passage) for passage in draft.passages],
        decision=router_service_pb2.Decision(
            policy=answer.policy,
            route=ROUTES[draft.route],
            steps=[_step(step) for step in answer.steps],
            rewritten_question=answer.rewritten_question,
        ),
        degraded=[
            router_service_pb2.Degradation(component=note.component, effect=note.effect) for note in answer.degraded
        ],
        usage=common_pb2.Usage(input_tokens=answer.usage.input_tokens, output_tokens=answer.usage.output_tokens),
        domain=answer.domain,
        signals=signals_to_proto(draft.signals),
        cost=router_service_pb2.AnswerCost(
            num_calls=answer.cost.num_calls, amount=answer.cost.amount, currency=answer.cost.currency
        ),
    )
    if draft.groundedness is not None and not draft.abstained:
        wire.groundedness.CopyFrom(groundedness_to_proto(draft.groundedness))
    if answer.scope is not None:
        wire.scope.CopyFrom(
            router_service_pb2.ScopeReading(
                distance=answer.scope.distance,
                threshold=answer.scope.threshold,
                inside=answer.scope.inside,
                reason=answer.scope.reason,
            )
        )
    if draft.confidence is not None and not draft.abstained:
        wire.confidence.value = draft.confidence.value
        wire.confidence.calibration = draft.confidence.calibration
    if draft.lineage is not None:
        wire.lineage.CopyFrom(_lineage(draft.lineage))
    for timing in answer.timings:
        row = wire.timings.add(stage=timing.stage)
        row.duration.FromTimedelta(timedelta(seconds=timing.seconds))
    return wire


def groundedness_to_proto(groundedness: Groundedness) -> router_service_pb2.Groundedness:
    """Returns the wire form of a groundedness."""
    return router_service_pb2.Groundedness(
        status=_GROUNDED[groundedness.status],
        value=groundedness.value,
        sentences=[
            router_service_pb2.GroundedSentence(
                answer_span=_span(sentence.answer_span),
                groundedness=sentence.groundedness,
                support=citation_to_proto(sentence.support) if sentence.support else None,
            )
            for sentence in groundedness.sentences
        ],
        rests_on=[signal.value for signal in groundedness.rests_on],
        absent=[
            router_service_pb2.AbsentEvidence(signal=one.signal.value, reason=one.reason) for one in groundedness.absent
        ],
        version=groundedness.version,
    )


def signals_to_proto(signals: Features) -> router_service_pb2.AnswerSignals:
    """Returns the wire form of what is known of a draft."""
    return router_service_pb2.AnswerSignals(**{name: signals.of(name) for name in FEATURE_NAMES})


def _step(step: DecisionStep) -> router_service_pb2.DecisionStep:
    return router_service_pb2.DecisionStep(kind=_KINDS[step.kind], route=ROUTES[step.route], reason=step.reason)


def _span(span: Span) -> common_pb2.TextSpan:
    return common_pb2.TextSpan(start=span.start, end=span.end)


def _lineage(lineage: Lineage) -> common_pb2.Lineage:
    return common_pb2.Lineage(
        model=lineage.model,
        model_sha256=lineage.model_sha256,
        adapter=lineage.adapter,
        adapter_sha256=lineage.adapter_sha256,
        signer_key_id=lineage.signer_key_id,
        cipher=lineage.cipher,
        cipher_key_id=lineage.cipher_key_id,
    )


def citation_to_proto(citation: Citation) -> router_service_pb2.Citation:
    """Returns the wire form of a citation."""
    return router_service_pb2.Citation(
        answer_span=_span(citation.answer_span),
        document_id=citation.document_id,
        chunk_id=citation.chunk_id,
        title=citation.title,
        document_span=_span(citation.document_span),
        quote=citation.quote,
        page=citation.page,
    )


def _passage(passage: Passage) -> common_pb2.Passage:
    return common_pb2.Passage(
        document_id=passage.document_id,
        chunk_id=passage.chunk_id,
        title=passage.title,
        source=passage.source,
        headings=passage.headings,
        page=passage.page,
        span=_span(passage.span),
        text=passage.text,
        score=passage.score,
        dense_rank=passage.dense_rank,
        sparse_rank=passage.sparse_rank,
        dense_score=passage.dense_score,
    )
