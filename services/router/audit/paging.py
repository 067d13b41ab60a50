"""Pages of records, newest first: their order, and the tokens by which one goes on where another ended."""

import base64
import binascii
import json

from sqlalchemy import ColumnElement, and_, or_

from services.router.audit.schema import records
from services.router.domain import AuditRecord
from tandem.errors import InvalidInput

NEWEST_FIRST = (records.c.record_time.desc(), records.c.writer.desc(), records.c.sequence.desc())


def after(token: str) -> ColumnElement[bool]:
    """Returns the condition of what follows a token's record; raises InvalidInput for a token that is not one."""
    moment, writer, sequence = _decode(token)
    c = records.c
    return or_(
        c.record_time < moment,
        and_(c.record_time == moment, c.writer < writer),
        and_(c.record_time == moment, c.writer == writer, c.sequence < sequence),
    )


def token_of(record: AuditRecord) -> str:
    """Returns the token of what follows a record."""
    place = json.dumps([record.record_time, record.writer, record.sequence])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decode(token: str) -> tuple[str, str, int]:
    try:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        moment, writer, sequence = json.loads(data)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidInput.of("page_token", "is not a token of this list") from None
    if not (isinstance(moment, str) and isinstance(writer, str) and type(sequence) is int and 0 <= sequence < 2**63):
        raise InvalidInput.of("page_token", "is not a token of this list")
    return moment, writer, sequence
