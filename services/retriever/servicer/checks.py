"""What requests must keep to, and their conversion into the retriever's own words."""

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from google.protobuf.timestamp_pb2 import Timestamp

from services.retriever.domain import (
    MEDIA_TYPES,
    Condition,
    Filter,
    Fusion,
    Header,
    Mode,
    ReciprocalRank,
    Unreadable,
    Weighted,
    Wish,
)
from tandem.errors import FieldViolation, InvalidInput, TandemError
from tandem.v1 import retriever_service_pb2 as pb

MAX_QUERY = 8_192
MAX_TOP_K, DEFAULT_TOP_K = 100, 5
MAX_NEIGHBORS = 5
MAX_PAGE, DEFAULT_PAGE = 1_000, 100
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ID_FAULT = "must have 1 to 128 characters of a-z 0-9 . _ -, the first a letter or digit"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TIME_FAULT = "is not a time of the years 1 to 9999"
_MAX_HEADER_BYTES = 60_000
_MAX_FAULTS = 20
_TIMES = range(-62_135_596_800, 253_402_300_800)  # years 1 to 9999, as Timestamp says
_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    pb.SEARCH_MODE_HYBRID: Mode.HYBRID,
    pb.SEARCH_MODE_DENSE: Mode.DENSE,
    pb.SEARCH_MODE_SPARSE: Mode.SPARSE,
}


class Faults:
    """Gathers what is wrong with a message, so that its sender learns of everything at once."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def expect(self, right: bool, field: str, fault: str) -> None:
        """Notes the fault of a field that is not right; of many, the first ones."""
        if not right and len(self.found) < _MAX_FAULTS:
            self.found.append(FieldViolation(field, fault))

    def settle(self, what: str) -> None:
        """Raises InvalidInput where there are faults."""
        if self.found:
            raise _invalid(what, self.found)


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
        return result, Unreadable("UNSUPPORTED_MEDIA_TYPE", _unknown_media_type(message))
    return result, None


def _unknown_media_type(message: pb.DocumentHeader) -> str:
    endings = f"a source that ends in {', '.join(MEDIA_TYPES)}"
    if message.media_type:
        known = ", ".join(sorted(set(MEDIA_TYPES.values())))
        return f"the media type {message.media_type!r} is not supported; known are {known}; or give none, and {endings}"
    return f"the source does not tell what the document is; give {endings}, or a media type"


def _header_bytes(message: pb.DocumentHeader) -> int:
    kept = [message.source, message.media_type, message.title, list(message.groups), dict(message.attributes)]
    return len(json.dumps(kept, ensure_ascii=False).encode())


def _header_faults(message: pb.DocumentHeader) -> list[FieldViolation]:
    faults = Faults()
    expect = faults.expect
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
        expect(is_time(time), f"header.{field}", _TIME_FAULT)
    if message.HasField("valid_from") and message.HasField("valid_until") and all(map(is_time, times)):
        expect(moment(times[0]) < moment(times[1]), "header.valid_until", "must be after valid_from")
    return faults.found


def document_id(value: str) -> str:
    """Returns a well-formed id; raises InvalidInput."""
    if not _ID.fullmatch(value):
        raise InvalidInput.of("document_id", _ID_FAULT)
    return value


def wish(request: pb.SearchRequest) -> Wish:
    """Returns what a search asks for; raises InvalidInput for all faults at once."""
    faults = Faults()
    faults.expect(bool(request.query.strip()), "query", "is empty")
    faults.expect(len(request.query) <= MAX_QUERY, "query", f"has more than {MAX_QUERY} characters")
    faults.expect(0 <= request.top_k <= MAX_TOP_K, "top_k", f"must be 0 to {MAX_TOP_K}")
    faults.expect(request.mode in _MODES, "mode", "is not known")
    directed = not request.query_vector or _is_direction(request.query_vector)
    faults.expect(directed, "query_vector", "must have finite components that are not all zero")
    named = not request.query_model_sha256 or _SHA256.fullmatch(request.query_model_sha256) is not None
    faults.expect(named, "query_model_sha256", "must be a SHA-256 in lower-case hexadecimal, or empty")
    faults.expect(is_time(request.as_of), "as_of", _TIME_FAULT)
    faults.expect(0 <= request.diversity <= 1, "diversity", "must be 0 to 1")
    faults.expect(0 <= request.num_neighbors <= MAX_NEIGHBORS, "num_neighbors", f"must be 0 to {MAX_NEIGHBORS}")
    named = not request.snapshot or _SNAPSHOT.fullmatch(request.snapshot) is not None
    faults.expect(named, "snapshot", "must have 1 to 32 characters of a-z 0-9 -, the first a letter")
    _check_fusion(request.fusion, faults)
    _check_filter(request.filter, faults)
    faults.settle("request")
    return Wish(
        query=request.query,
        vector=request.query_vector,
        vector_model=request.query_model_sha256,
        top_k=request.top_k or DEFAULT_TOP_K,
        mode=_MODES[request.mode],
        moment=moment(request.as_of) if request.HasField("as_of") else None,
        filter=_filter(request.filter),
        fusion=_fusion(request.fusion),
        diversity=request.diversity,
        num_neighbors=request.num_neighbors,
        keep_duplicates=request.keep_duplicates,
        rerank=request.rerank if request.HasField("rerank") else None,
        snapshot=request.snapshot,
    )


def _check_fusion(message: pb.Fusion, faults: Faults) -> None:
    faults.expect(0 <= message.reciprocal_rank.k <= 1_000, "fusion.reciprocal_rank.k", "must be 0 to 1,000")
    for method in ("reciprocal_rank", "weighted"):
        weight = getattr(message, method).dense_weight
        faults.expect(0 <= weight <= 1, f"fusion.{method}.dense_weight", "must be 0 to 1")


def _fusion(message: pb.Fusion) -> Fusion | None:
    method = message.WhichOneof("method")
    if method is None:
        return None
    by_rank, by_score = message.reciprocal_rank, message.weighted
    if method == "weighted":
        return Weighted(by_score.dense_weight if by_score.HasField("dense_weight") else 0.5)
    return ReciprocalRank(by_rank.k or 60, by_rank.dense_weight if by_rank.HasField("dense_weight") else 0.5)


def _check_filter(message: pb.SearchFilter, faults: Faults) -> None:
    faults.expect(len(message.document_ids) <= 256, "filter.document_ids", "must be at most 256")
    for at, document_id in enumerate(message.document_ids):
        faults.expect(_ID.fullmatch(document_id) is not None, f"filter.document_ids[{at}]", _ID_FAULT)
    faults.expect(len(message.media_types) <= 16, "filter.media_types", "must be at most 16")
    for at, media_type in enumerate(message.media_types):
        faults.expect(1 <= len(media_type) <= 255, f"filter.media_types[{at}]", "must have 1 to 255 characters")
    faults.expect(len(message.attributes) <= 16, "filter.attributes", "must be at most 16")
    for at, condition in enumerate(message.attributes):
        field = f"filter.attributes[{at}]"
        faults.expect(1 <= len(condition.key) <= 64, f"{field}.key", "must have 1 to 64 characters")
        faults.expect(len(condition.values) <= 64, f"{field}.values", "must be at most 64")
        short = all(len(value) <= 512 for value in condition.values)
        faults.expect(short, f"{field}.values", "must have at most 512 characters each")
    faults.expect(is_time(message.updated_since), "filter.updated_since", _TIME_FAULT)


def _filter(message: pb.SearchFilter) -> Filter:
    return Filter(
        document_ids=frozenset(message.document_ids),
        media_types=frozenset(message.media_types),
        conditions=tuple(Condition(item.key, frozenset(item.values), item.excluded) for item in message.attributes),
        updated_since=moment(message.updated_since) if message.HasField("updated_since") else None,
    )


def page(request: pb.ListDocumentsRequest | pb.ListSnapshotsRequest | pb.DiffSnapshotRequest) -> tuple[str, int]:
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


def is_time(time: Timestamp) -> bool:
    """Tells whether a time is one of the years 1 to 9999."""
    return time.seconds in _TIMES and 0 <= time.nanos < 1_000_000_000


def _is_direction(vector: Sequence[float]) -> bool:
    return all(map(math.isfinite, vector)) and any(vector)


def _invalid(what: str, faults: Sequence[FieldViolation]) -> InvalidInput:
    first = f"{faults[0].field} {faults[0].description}"
    more = f" (and {len(faults) - 1} more faults of the {what})" if len(faults) > 1 else ""
    return InvalidInput(first + more, faults)
