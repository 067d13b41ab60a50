"""What requests must keep to, and their conversion into the retriever's own words."""

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from google.protobuf.timestamp_pb2 import Timestamp

from services.retriever.domain import MEDIA_TYPES, Header, Mode, Unreadable
from tandem.errors import FieldViolation, InvalidInput, TandemError
from tandem.v1 import retriever_service_pb2 as pb

MAX_QUERY = 8_192
MAX_TOP_K, DEFAULT_TOP_K = 100, 5
MAX_PAGE, DEFAULT_PAGE = 1_000, 100
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ID_FAULT = "must have 1 to 128 characters of a-z 0-9 . _ -, the first a letter or digit"
_MAX_HEADER_BYTES = 60_000
_TIMES = range(-62_135_596_800, 253_402_300_800)  # years 1 to 9999, as Timestamp says
_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    pb.SEARCH_MODE_HYBRID: Mode.HYBRID,
    pb.SEARCH_MODE_DENSE: Mode.DENSE,
    pb.SEARCH_MODE_SPARSE: Mode.SPARSE,
}


def header(message: pb.DocumentHeader) -> tuple[Header, TandemError | None]:
    """Returns the header, and what is wrong with it if anything is: one bad header rejects one document."""
    faults = _header_faults(message)
    if not faults and _header_bytes(message) > _MAX_HEADER_BYTES:
        faults.append(FieldViolation("header", f"is larger than {_MAX_HEADER_BYTES} bytes"))
    if faults:
        return Header(source="", media_type=""), _invalid("header", faults)
    result = Header(
        source=message.source,
        media_type=message.media_type or MEDIA_TYPES.get(PurePosixPath(message.source).suffix.lower(), ""),
        title=message.title.strip(),
        groups=tuple(sorted(set(message.groups))),
        valid_from=moment(message.valid_from) if message.HasField("valid_from") else None,
        valid_until=moment(message.valid_until) if message.HasField("valid_until") else None,
        attributes=dict(message.attributes),
    )
    if result.media_type not in MEDIA_TYPES.values():
        named = repr(result.media_type) if message.media_type else "of this file name"
        return result, Unreadable("UNSUPPORTED_MEDIA_TYPE", f"the media type {named} is not supported")
    return result, None


def _header_bytes(message: pb.DocumentHeader) -> int:
    kept = [message.source, message.media_type, message.title, list(message.groups), dict(message.attributes)]
    return len(json.dumps(kept, ensure_ascii=False).encode())


def _header_faults(message: pb.DocumentHeader) -> list[FieldViolation]:
    faults = []

    def expect(right: bool, field: str, fault: str) -> None:
        if not right:
            faults.append(FieldViolation(field, fault))

    expect(_ID.fullmatch(message.document_id) is not None, "header.document_id", _ID_FAULT)
    expect(1 <= len(message.source) <= 255, "header.source", "must have 1 to 255 characters")
    expect(len(message.media_type) <= 255, "header.media_type", "must have at most 255 characters")
    expect(len(message.title) <= 512, "header.title", "must have at most 512 characters")
    expect(len(message.groups) <= 32, "header.groups", "must be at most 32")
    expect(all(1 <= len(group) <= 1024 for group in message.groups), "header.groups", "must have 1 to 1,024 characters")
    expect(len(message.attributes) <= 32, "header.attributes", "must be at most 32")
    for key, value in message.attributes.items():
        expect(1 <= len(key) <= 64, "header.attributes", "must have keys of 1 to 64 characters")
        expect(len(value) <= 512, "header.attributes", "must have values of at most 512 characters")
    times = [message.valid_from, message.valid_until]
    for field, time in zip(("valid_from", "valid_until"), times, strict=True):
        expect(_is_time(time), f"header.{field}", "is not a time of the years 1 to 9999")
    if message.HasField("valid_from") and message.HasField("valid_until") and all(map(_is_time, times)):
        expect(moment(times[0]) < moment(times[1]), "header.valid_until", "must be after valid_from")
    return faults


def document_id(value: str) -> str:
    """Returns a well-formed id; raises InvalidInput."""
    if not _ID.fullmatch(value):
        raise InvalidInput.of("document_id", _ID_FAULT)
    return value


def search(request: pb.SearchRequest) -> tuple[Mode, int, int | None]:
    """Returns mode, number of passages and moment; raises InvalidInput for all faults at once."""
    faults = []
    if not request.query.strip():
        faults.append(FieldViolation("query", "is empty"))
    if len(request.query) > MAX_QUERY:
        faults.append(FieldViolation("query", f"has more than {MAX_QUERY} characters"))
    if not 0 <= request.top_k <= MAX_TOP_K:
        faults.append(FieldViolation("top_k", f"must be 0 to {MAX_TOP_K}"))
    if request.mode not in _MODES:
        faults.append(FieldViolation("mode", "is not known"))
    if request.query_vector and not _is_direction(request.query_vector):
        faults.append(FieldViolation("query_vector", "must have finite components that are not all zero"))
    if not _is_time(request.as_of):
        faults.append(FieldViolation("as_of", "is not a time of the years 1 to 9999"))
    if faults:
        raise _invalid("request", faults)
    as_of = moment(request.as_of) if request.HasField("as_of") else None
    return _MODES[request.mode], request.top_k or DEFAULT_TOP_K, as_of


def page(request: pb.ListDocumentsRequest) -> tuple[str, int]:
    """Returns the id that the page begins after and its size; raises InvalidInput."""
    if not 0 <= request.page_size <= MAX_PAGE:
        raise InvalidInput.of("page_size", f"must be 0 to {MAX_PAGE}")
    size = request.page_size or DEFAULT_PAGE
    if not request.page_token:
        return "", size
    try:
        version, _, after = base64.urlsafe_b64decode(request.page_token.encode()).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        version, after = "", ""
    if version != "1" or not _ID.fullmatch(after):
        raise InvalidInput.of("page_token", "is not one that this service gave")
    return after, size


def page_token(after: str) -> str:
    """Returns the token of the page that begins after an id."""
    return base64.urlsafe_b64encode(f"1:{after}".encode()).decode()


def moment(time: Timestamp) -> int:
    """Returns microseconds since 1970."""
    return time.seconds * 1_000_000 + time.nanos // 1_000


def _is_time(time: Timestamp) -> bool:
    return time.seconds in _TIMES and 0 <= time.nanos < 1_000_000_000


def _is_direction(vector: Sequence[float]) -> bool:
    return all(map(math.isfinite, vector)) and any(vector)


def _invalid(what: str, faults: Sequence[FieldViolation]) -> InvalidInput:
    first = f"{faults[0].field} {faults[0].description}"
    more = f" (and {len(faults) - 1} more faults of the {what})" if len(faults) > 1 else ""
    return InvalidInput(first + more, faults)
