"""Feedback read from records, tolerantly: earlier versions recorded less, and a cell may be tampered with."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.router.audit.records import CLOSED, OPENED, feedback_number, parse_timestamp
from services.router.domain import AuditRecord, Outcome, Route
from services.router.domain.calibration import FEATURE_NAMES, Features
from services.router.domain.feedback import Feedback, JudgedAnswer, Verdict

_TEXTS = frozenset({Outcome.ANSWERED.value, Outcome.ABSTAINED.value})
_ROUTES = {route.value: route for route in Route}


def answer_of(records: Sequence[AuditRecord]) -> JudgedAnswer | None:
    """Returns what one answer's records tell, given in their order; None where none of them opened it."""
    opened = next((record for record in records if record.kind == OPENED), None)
    if opened is None:
        return None
    closed = next((record for record in records if record.kind == CLOSED), None)
    known = _known(_table("" if closed is None else closed.payload_json))
    return JudgedAnswer(
        answer_id=opened.answer_id,
        tenant=opened.tenant,
        asker=opened.subject,
        given=closed is not None and closed.outcome in _TEXTS,
        domain=known.domain,
        policy=known.policy,
        route=known.route,
        signals=known.signals,
        feedback=tuple(one for one in map(feedback_of, records) if one is not None),
        num_verdicts=max((feedback_number(record.kind) for record in records), default=0),
    )


def feedback_of(record: AuditRecord) -> Feedback | None:
    """Returns the feedback of a record; None where it holds none, or none that can be read any more."""
    number = feedback_number(record.kind)
    payload = _table(record.payload_json)
    try:
        verdict, submitted = Verdict(_text(payload, "verdict")), parse_timestamp(record.record_time)
    except ValueError:
        return None
    if not number:
        return None
    text, deflected = _text(payload, "corrected_text"), payload.get("deflected_ticket")
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""
    known = _known(payload)
    return Feedback(
        answer_id=record.answer_id,
        tenant=record.tenant,
        subject=record.subject,
        number=number,
        verdict=verdict,
        submitted=submitted,
        corrected_text=text,
        corrected_sha256=sha256 or _text(payload, "corrected_text_sha256"),
        deflected_ticket=deflected if isinstance(deflected, bool) else None,
        domain=known.domain,
        policy=known.policy,
        route=known.route,
        signals=known.signals,
    )


@dataclass(frozen=True)
class _Known:
    domain: str
    policy: str
    route: Route
    signals: Features | None


def _known(payload: Mapping[str, Any]) -> _Known:
    abstained = payload.get("abstained") is True
    return _Known(
        domain=_text(payload, "domain") or "default",
        policy=_text(payload, "policy"),
        route=_ROUTES.get(_text(payload, "route"), Route.NONE),
        signals=None if abstained else _signals(payload.get("signals")),
    )


def _signals(told: object) -> Features | None:
    """Returns signals as records spell them, fractions as text; what is no finite number is not known."""
    if not isinstance(told, dict):
        return None
    found: dict[str, Any] = {}
    for name in FEATURE_NAMES:
        try:
            value = float(told[name])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(value):
            found[name] = value
    return Features(**found) if found else None


def _table(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else ""
