"""What a record keeps of an answer's budget, place, support and price."""

import json
from dataclasses import replace

from services.router.audit import Payloads
from services.router.domain import Allowance, Cost, Opening, Span
from services.router.domain.calibration import Features, ScopeReading
from services.router.domain.grounding import Groundedness, GroundedSentence, GroundingStatus
from tests.fakes.router import question
from tests.fakes.router_audit import closing


def closed(**changes: object) -> dict[str, object]:
    ended = closing("a")
    assert ended.answer is not None
    told = Payloads().closed(replace(ended, answer=replace(ended.answer, **changes)))  # type: ignore[arg-type]
    payload: dict[str, object] = json.loads(told)
    return payload


def test_the_opened_record_keeps_domain_and_budget():
    asked = question(allowance=Allowance(max_calls=3, max_cost=0.5), timeout_s=2.0)
    payload = json.loads(Payloads().opened(Opening(answer_id="a", question=asked, rewritten_question="q")))
    assert payload["domain"] == "default"
    assert payload["budget"] == {"max_calls": 3, "max_cost": "0.500000", "microseconds": 2_000_000}


def test_the_closed_record_keeps_where_the_question_lies_and_what_the_answer_took():
    payload = closed(
        domain="claims",
        scope=ScopeReading(0.25, True, "distance 0.250 <= scope 0.300", 0.3),
        cost=Cost(4, 0.0125, "EUR"),
    )
    assert payload["domain"] == "claims"
    assert payload["scope"] == {"distance": "0.250000", "threshold": "0.300000", "inside": True}
    assert payload["cost"] == {"num_calls": 4, "amount": "0.012500", "currency": "EUR"}


def test_the_closed_record_keeps_the_support_of_each_sentence_and_the_signals():
    found = Groundedness(
        status=GroundingStatus.MEASURED,
        value=0.9,
        sentences=(GroundedSentence(answer_span=Span(0, 5), groundedness=0.9, support=None),),
        version="ab" * 32,
    )
    ended = closing("a")
    assert ended.answer is not None
    signals = Features(mean_logprob=-0.5, scope_distance=0.25)
    payload = closed(draft=replace(ended.answer.draft, groundedness=found, signals=signals))
    assert payload["groundedness"] == {
        "status": "measured",
        "value": "0.900000",
        "version": "ab" * 32,
        "sentences": ["0.900000"],
    }
    assert payload["signals"] == {"mean_logprob": "-0.500000", "scope_distance": "0.250000"}


def test_what_was_not_measured_is_recorded_as_unknown():
    payload = closed()
    assert (payload["scope"], payload["groundedness"], payload["signals"]) == (None, None, {})
    assert payload["cost"] == {"num_calls": 0, "amount": None, "currency": ""}
