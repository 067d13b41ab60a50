"""What of a question and an answer is recorded, as JSON."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from services.router.audit.records import Json, canonical, fraction, microseconds, timestamp
from services.router.domain import (
    Answer,
    Citation,
    Closing,
    Cost,
    DecisionStep,
    Degradation,
    Drafted,
    Lineage,
    Opening,
    Passage,
    Question,
    Span,
)
from services.router.domain.calibration import FEATURE_NAMES, Features, ScopeReading
from services.router.domain.feedback import JudgedAnswer, Judgement
from services.router.domain.grounding import Groundedness


@dataclass(frozen=True)
class Payloads:
    """Renders payloads; without keep_text every text is replaced by its SHA-256 under "<key>_sha256"."""

    keep_text: bool = True

    def opened(self, opening: Opening) -> str:
        """Returns the payload of an opened record."""
        question = opening.question
        history: list[Json] = [
            self._text("question", turn.question) | self._text("answer", turn.answer) for turn in question.history
        ]
        return canonical(
            self._text("question", question.text)
            | self._text("rewritten_question", opening.rewritten_question)
            | {
                "policy": question.policy,
                "domain": question.domain.name,
                "budget": _budget(question),
                "history": history,
                "groups": list[Json](sorted(question.principal.groups)),
                "max_passages": question.max_passages,
                "as_of": timestamp(question.as_of) if question.as_of else None,
            }
        )

    def closed(self, closing: Closing) -> str:
        """Returns the payload of a closed record."""
        payload: dict[str, Json] = {
            "steps": _steps(closing.steps),
            "degraded": _degraded(closing.degraded),
            "drafts": _drafts(closing.drafts),
        }
        if closing.error_code:
            payload["error"] = {"code": closing.error_code, "reason": closing.error_reason}
        if closing.answer is not None:
            payload |= self._answer(closing.answer)
        return canonical(payload)

    def feedback(self, answer: JudgedAnswer, judgement: Judgement) -> str:
        """Returns the payload of a verdict, with what its lists tell of the answer, so that they need not read that."""
        text = judgement.corrected_text
        return canonical(
            (self._text("corrected_text", text) if text else {})
            | {
                "verdict": judgement.verdict.value,
                "deflected_ticket": judgement.deflected_ticket,
                "domain": answer.domain,
                "policy": answer.policy,
                "route": answer.route.value,
                "signals": None if answer.signals is None else _signals(answer.signals),
            }
        )

    def _answer(self, answer: Answer) -> dict[str, Json]:
        draft = answer.draft
        confidence: Json = None
        if draft.confidence is not None and not draft.abstained:
            confidence = {"value": fraction(draft.confidence.value), "calibration": draft.confidence.calibration}
        return self._text("answer", draft.text) | {
            "abstained": draft.abstained,
            "policy": answer.policy,
            "domain": answer.domain,
            "scope": _scope(answer.scope),
            "signals": _signals(draft.signals),
            "groundedness": _groundedness(draft.groundedness),
            "cost": _cost(answer.cost),
            "route": draft.route.value,
            "citations": [self._citation(citation) for citation in draft.citations],
            "passages": [_passage(passage) for passage in draft.passages],
            "confidence": confidence,
            "lineage": _lineage(draft.lineage),
            "usage": {"input_tokens": answer.usage.input_tokens, "output_tokens": answer.usage.output_tokens},
            "timings": [{"stage": t.stage, "microseconds": microseconds(t.seconds)} for t in answer.timings],
        }

    def _citation(self, citation: Citation) -> Json:
        return self._text("quote", citation.quote) | {
            "document_id": citation.document_id,
            "chunk_id": citation.chunk_id,
            "document_span": _span(citation.document_span),
            "answer_span": _span(citation.answer_span),
        }

    def _text(self, key: str, text: str) -> dict[str, Json]:
        if self.keep_text:
            return {key: text}
        return {f"{key}_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def _span(span: Span) -> Json:
    return {"start": span.start, "end": span.end}


def _passage(passage: Passage) -> Json:
    return {"document_id": passage.document_id, "chunk_id": passage.chunk_id, "span": _span(passage.span)}


def _budget(question: Question) -> Json:
    """Returns what the caller lets the answer take; None is no bound of its own."""
    allowance, timeout_s = question.allowance, question.timeout_s
    return {
        "max_calls": allowance.max_calls,
        "max_cost": _known(allowance.max_cost),
        "microseconds": None if timeout_s is None else microseconds(timeout_s),
    }


def _scope(scope: ScopeReading | None) -> Json:
    if scope is None:
        return None
    return {"distance": _known(scope.distance), "threshold": fraction(scope.threshold), "inside": scope.inside}


def _signals(signals: Features) -> Json:
    """Returns what is known of a draft, by name."""
    return {name: fraction(value) for name in FEATURE_NAMES if (value := signals.of(name)) is not None}


def _groundedness(found: Groundedness | None) -> Json:
    """Returns what was said of an answer's support; of an answer that was withheld, what was said of its draft."""
    if found is None:
        return None
    return {
        "status": found.status.value,
        "value": _known(found.value),
        "version": found.version,
        "sentences": [fraction(sentence.groundedness) for sentence in found.sentences],
    }


def _cost(cost: Cost) -> Json:
    return {"num_calls": cost.num_calls, "amount": _known(cost.amount), "currency": cost.currency}


def _known(value: float | None) -> Json:
    return None if value is None else fraction(value)


def _lineage(lineage: Lineage | None) -> Json:
    if lineage is None:
        return None
    return {
        "model": lineage.model,
        "model_sha256": lineage.model_sha256,
        "adapter": lineage.adapter,
        "adapter_sha256": lineage.adapter_sha256,
        "signer_key_id": lineage.signer_key_id,
        "cipher": lineage.cipher,
        "cipher_key_id": lineage.cipher_key_id,
    }


def _steps(steps: Sequence[DecisionStep]) -> list[Json]:
    return [{"kind": step.kind.value, "route": step.route.value, "reason": step.reason} for step in steps]


def _drafts(drafts: Sequence[Drafted]) -> list[Json]:
    return [
        {"route": draft.route.value, "finished": draft.finished, "lineage": _lineage(draft.lineage)} for draft in drafts
    ]


def _degraded(degraded: Sequence[Degradation]) -> list[Json]:
    return [{"component": item.component, "effect": item.effect} for item in degraded]
