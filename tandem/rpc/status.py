"""The one place where failures become gRPC statuses, and statuses become failures again."""

import math
from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tandem import errors

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
# A status travels in HTTP/2 trailers, for which peers commonly allow 8 KiB: the message percent-encoded (up to three
# bytes for one), the details in base64. All limits are bytes of UTF-8.
_MAX_MESSAGE, _MAX_WORD, _MAX_VALUE, _MAX_METADATA, _MAX_VIOLATIONS = 512, 64, 256, 1024, 2048
_MAX_RETRY_S = 86_400.0
# What grpc.aio says when a server refuses while the client is still writing (grpc/grpc issue 36066).
_LOST = "Internal error from Core"

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
    rich.details.add().Pack(_info(error))
    if isinstance(error, errors.InvalidInput) and error.violations:
        rich.details.add().Pack(_bad_request(error))
    retry_after = getattr(error, "retry_after_s", None)
    if retry_after is not None and not math.isnan(retry_after):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(min(max(retry_after, 0.001), _MAX_RETRY_S) * 1000))
        rich.details.add().Pack(retry)
    return rich


def _info(error: errors.TandemError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=_cut(error.reason, _MAX_WORD), domain=DOMAIN)
    for key, value in error.metadata.items():
        key, value = _cut(key, _MAX_WORD), _cut(value, _MAX_VALUE)
        if info.ByteSize() + len(key.encode()) + len(value.encode()) > _MAX_METADATA:
            break
        info.metadata[key] = value
    return info


def _bad_request(error: errors.InvalidInput) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    for violation in error.violations:
        row = bad.FieldViolation(
            field=_cut(violation.field, _MAX_VALUE), description=_cut(violation.description, _MAX_VALUE)
        )
        if bad.ByteSize() + row.ByteSize() > _MAX_VIOLATIONS:
            break
        bad.field_violations.append(row)
    return bad


def to_grpc(error: errors.TandemError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Returns code, message and trailing metadata for ServicerContext.abort."""
    rich = to_rich(error)
    code = getattr(grpc.StatusCode, error.code)
    return code, rich.message, ((DETAILS_KEY, rich.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> errors.TandemError:
    """Returns the failure that a peer reported, with its code, reason, metadata and details."""
    code = error.code().name if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else "UNKNOWN"
    message = (error.details() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else None) or code
    if message == _LOST:
        lost = "the server ended the stream before all was sent, and its reason was lost"
        return errors.Unavailable(lost, reason="STREAM_ENDED_EARLY")
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
    name = code or _code_name(rich.code)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in rich.details:
        for target in (info, bad, retry):
            try:
                detail.Unpack(target)
            except DecodeError:  # a peer of another make; the code still tells what happened
                target.Clear()
    delay = retry.retry_delay
    retry_after = delay.seconds + delay.nanos / 1e9 if retry.HasField("retry_delay") else None
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


def _code_name(number: int) -> str:
    try:
        return str(code_pb2.Code.Name(number))
    except ValueError:
        return "UNKNOWN"


def _cut(text: str, limit: int) -> str:
    # A lone surrogate cannot be sent; a caller's bad input must not turn its own refusal into a crash.
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"
