"""The canonical form of an audit record and its hash.

Canonical JSON is a subset of RFC 8785 (JCS) that leaves nothing to choose: keys sorted by code point, no white space,
UTF-8, characters escaped only where JSON requires it, integers in plain decimal. There are no floating-point numbers:
a fraction is a string with six decimals ("0.843210"), a duration an integer of microseconds; `canonical` refuses
floats.

A record's hash is the SHA-256, in lower-case hexadecimal, of the canonical JSON object with exactly these keys, all
strings but `sequence`:

    answer_id, kind, outcome, payload_json, previous_hash, record_time, sequence, subject, tenant, writer

- kind is "opened", "closed", or "feedback-1" to "feedback-16" for the verdicts on the answer, in their order.
- outcome is "answered", "abstained", "failed", "cancelled" or "interrupted" for a closed record, else "".
- subject is who asked; of feedback, who judged.
- record_time is RFC 3339 in UTC with six decimals and "Z", so that its order as text is its order in time.
- payload_json is the payload's own canonical JSON, as a string: a verifier does not need to parse it.
- previous_hash is the hash of the record before it in the writer's chain, 64 zeros for the first.
"""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime

from services.router.domain import AuditRecord

GENESIS = "0" * 64
OPENED, CLOSED = "opened", "closed"
_FEEDBACK = "feedback-"

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def feedback_kind(number: int) -> str:
    """Returns the kind of an answer's verdict of this number, 1 to 16.

    The number is part of the kind so that the table's own rule, one record of a kind for each answer, bounds the
    verdicts and numbers them without gaps, however many processes write.
    """
    return f"{_FEEDBACK}{number}"


def feedback_number(kind: str) -> int:
    """Returns the number that a record of feedback has among its answer's verdicts, 0 for another kind."""
    number = kind.removeprefix(_FEEDBACK)
    return int(number) if kind.startswith(_FEEDBACK) and number.isdecimal() and number.isascii() else 0


def canonical(value: Json) -> str:
    """Returns the canonical JSON text of a value; raises TypeError for a float or anything that is not JSON."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fraction(value: float) -> str:
    """Returns a fraction as canonical JSON spells it."""
    return f"{value:.6f}"


def microseconds(seconds: float) -> int:
    """Returns a duration as canonical JSON spells it."""
    return round(seconds * 1_000_000)


def timestamp(moment: datetime) -> str:
    """Returns a moment as canonical JSON spells it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_timestamp(text: str) -> datetime:
    """Reads what `timestamp` wrote; raises ValueError for anything else."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def hash_record(record: AuditRecord) -> str:
    """Returns the hash that the record should have."""
    fields = asdict(record)
    del fields["hash"]
    return hashlib.sha256(canonical(fields).encode("utf-8", "surrogatepass")).hexdigest()


def _refuse_floats(value: Json) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("keys of canonical JSON are strings")
            _refuse_floats(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_floats(item)
    elif value is not None and not isinstance(value, str | int):
        raise TypeError(f"{type(value).__name__} has no canonical JSON form here")
