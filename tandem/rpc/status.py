"""The one place where failures become gRPC statuses, and statuses become failures again."""

import math
from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tandem import errors

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
# A status travels in HTTP/2 trailers, for which peers commonly allow 8 KiB.
_MAX_MESSAGE, _MAX_VIOLATIONS, _MAX_VALUE = 1024, 8, 256

_BY_CODE: dict[str, type[errors.TandemError]] = {
    cls.code: cls
    for cls in (
        errors.InvalidInput, errors.Unauthenticated, errors.PermissionDenied, errors.NotFound, errors.AlreadyExists,
        errors.FailedPrecondition, errors.DeadlineExceeded, errors.Cancelled, errors.Unimplemented, errors.DataLoss,
        errors.Internal,
    )
}  # fmt: skip


def to_rich(error: errors.TandemError) -> status_pb2.Status:
    """Returns the google.rpc.Status of a failure, with ErrorInfo and what else belongs to its kind."""
    message = "internal error" if error.code == "INTERNAL" else _cut(error.message, _MAX_MESSAGE)
    rich = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[_cut(key, 64)] = _cut(value, _MAX_VALUE)
    rich.details.add().Pack(info)
    if isinstance(error, errors.InvalidInput) and error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[:_MAX_VIOLATIONS]:
            bad.field_violations.add(
                field=_cut(violation.field, _MAX_VALUE), description=_cut(violation.description, _MAX_VALUE)
            )
        rich.details.add().Pack(bad)
    retry_after = getattr(error, "retry_after_s", None)
    if retry_after is not None and math.isfinite(retry_after):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(1, round(retry_after * 1000)))
        rich.details.add().Pack(retry)
    return rich


def to_grpc(error: errors.TandemError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Returns code, message and trailing metadata for ServicerContext.abort."""
    rich = to_rich(error)
    code = getattr(grpc.StatusCode, error.code)
    return code, rich.message, ((DETAILS_KEY, rich.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> errors.TandemError:
    """Returns the failure that a peer reported, with its code, reason, metadata and details."""
    code = error.code().name if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else "UNKNOWN"
    message = (error.details() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else None) or code
    rich = status_pb2.Status(message=message)
    trailers: Sequence[tuple[str, str | bytes]] = tuple(getattr(error, "trailing_metadata", tuple)() or ())
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                rich = status_pb2.Status.FromString(value)
            except DecodeError:
                continue
    return from_rich(rich, code=code)


def from_rich(rich: status_pb2.Status, *, code: str | None = None) -> errors.TandemError:
    """Returns the failure that a google.rpc.Status describes; code overrides the status's own."""
    name = code or code_pb2.Code.Name(rich.code)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in rich.details:
        for target in (info, bad, retry):
            detail.Unpack(target)
    retry_after = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    metadata, reason = dict(info.metadata), info.reason or None
    if name == "RESOURCE_EXHAUSTED":
        if retry_after is None:
            return errors.TooLarge(rich.message, metadata=metadata, reason=reason)
        return errors.Overloaded(rich.message, retry_after_s=retry_after, metadata=metadata, reason=reason)
    if name == "INVALID_ARGUMENT":
        violations = [errors.FieldViolation(item.field, item.description) for item in bad.field_violations]
        return errors.InvalidInput(rich.message, violations, metadata=metadata, reason=reason)
    cls = _BY_CODE.get(name)
    if cls is not None:
        return cls(rich.message, metadata=metadata, reason=reason)
    if name == "UNAVAILABLE":
        return errors.Unavailable(rich.message, retry_after_s=retry_after, metadata=metadata, reason=reason)
    return errors.Internal(f"{name}: {rich.message}", metadata=metadata, reason=reason)


def _cut(text: str, limit: int) -> str:
    # A lone surrogate cannot be sent; a caller's bad input must not turn its own refusal into a crash.
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
