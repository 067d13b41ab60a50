"""Every failure that Tandem reports, as one small tree.

    TandemError
    ├── InvalidInput            INVALID_ARGUMENT      the request is at fault; names the fields
    ├── Unauthenticated         UNAUTHENTICATED       no token, or an unknown one
    ├── PermissionDenied        PERMISSION_DENIED     known, but may not
    ├── NotFound                NOT_FOUND             no such thing, or not for this caller
    ├── AlreadyExists           ALREADY_EXISTS
    ├── FailedPrecondition      FAILED_PRECONDITION   right request, wrong state of the system
    ├── Overloaded              RESOURCE_EXHAUSTED    try again after retry_after_s
    ├── TooLarge                RESOURCE_EXHAUSTED    beyond a fixed limit; trying again does not help
    ├── DeadlineExceeded        DEADLINE_EXCEEDED
    ├── Cancelled               CANCELLED
    ├── Unavailable             UNAVAILABLE           loading, draining, or a part is down
    ├── Unimplemented           UNIMPLEMENTED
    ├── DataLoss                DATA_LOSS
    └── Internal                INTERNAL              a bug; the caller sees a bland message

    ConfigError                 never on the wire: the service does not start

This module knows no gRPC: `code` is the name of a status code, and tandem.rpc.status turns it into one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """Says what is wrong with one field of a request."""

    field: str
    description: str


class TandemError(Exception):
    """Is the root of all failures that a caller may see.

    `reason` is the stable machine-readable word of google.rpc.ErrorInfo; `metadata` its key-value pairs. Neither may
    hold query text, passage text or personal data.
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: str = "UNKNOWN"

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        if reason is not None:
            self.reason = reason


class InvalidInput(TandemError):
    """Says that a request breaks its contract, field by field."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"

    def __init__(
        self,
        message: str,
        violations: Sequence[FieldViolation] = (),
        *,
        metadata: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, reason=reason)
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidInput":
        """Returns the error for one faulty field; the description completes "<field> ..."."""
        return cls(f"{field} {description}", [FieldViolation(field, description)])


class Unauthenticated(TandemError):
    """Says that the caller did not prove who it is."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDenied(TandemError):
    """Says that the caller is known but may not do this."""

    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class NotFound(TandemError):
    """Says that there is no such thing, or none that this caller may know of."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExists(TandemError):
    """Says that the name is taken."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class FailedPrecondition(TandemError):
    """Says that the system is not in a state in which the request could work."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class Overloaded(TandemError):
    """Refuses work at the door because a queue is full; try again after retry_after_s seconds."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        metadata: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, reason=reason)
        self.retry_after_s = retry_after_s


class TooLarge(TandemError):
    """Refuses a thing beyond a fixed limit, such as a message's size."""

    code = "RESOURCE_EXHAUSTED"
    reason = "TOO_LARGE"


class DeadlineExceeded(TandemError):
    """Says that the caller's deadline passed first."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Cancelled(TandemError):
    """Says that the caller left."""

    code = "CANCELLED"
    reason = "CANCELLED"


class Unavailable(TandemError):
    """Says that a part is loading, draining or down; retry_after_s is set where a guess is worth something."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, reason=reason)
        self.retry_after_s = retry_after_s


class Unimplemented(TandemError):
    """Says that this server cannot do that."""

    code = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class DataLoss(TandemError):
    """Says that stored data is damaged."""

    code = "DATA_LOSS"
    reason = "DATA_LOSS"


class Internal(TandemError):
    """Says that there is a bug; the message that callers see is bland."""

    code = "INTERNAL"
    reason = "INTERNAL"


class ConfigError(Exception):
    """Says why a service does not start; the message tells the operator what to change."""
