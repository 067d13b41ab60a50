"""The tamper-evident log of answers: append-only records, hash-chained for each writer.

`AuditLog` writes and `AuditReader` shows and verifies; `records` documents the canonical form and the hash.
"""

from services.router.audit.log import AuditLog
from services.router.audit.payload import Payloads
from services.router.audit.reader import AuditReader
from services.router.audit.records import canonical, feedback_number, hash_record, parse_timestamp

__all__ = ["AuditLog", "AuditReader", "Payloads", "canonical", "feedback_number", "hash_record", "parse_timestamp"]
