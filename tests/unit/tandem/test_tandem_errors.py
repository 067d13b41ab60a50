"""Every failure survives the trip over the wire, whatever is in it."""

import base64
import math

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from tandem import errors
from tandem.rpc import status

# Surrogates included: what a caller sent may be quoted in its refusal.
TEXT = st.text(st.characters(exclude_categories=()), max_size=60) | st.integers(0, 5000).map(lambda n: "é€😀a" * n)
CODES = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.PermissionDenied: "PERMISSION_DENIED",
    errors.NotFound: "NOT_FOUND",
    errors.AlreadyExists: "ALREADY_EXISTS",
    errors.FailedPrecondition: "FAILED_PRECONDITION",
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.TooLarge: "RESOURCE_EXHAUSTED",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.Cancelled: "CANCELLED",
    errors.Unavailable: "UNAVAILABLE",
    errors.Unimplemented: "UNIMPLEMENTED",
    errors.DataLoss: "DATA_LOSS",
    errors.Internal: "INTERNAL",
}


def make(cls: type[errors.TandemError], message: str, **more: object) -> errors.TandemError:
    if cls is errors.Overloaded:
        more.setdefault("retry_after_s", 2.5)
    return cls(message, **more)


def travel(error: errors.TandemError) -> errors.TandemError:
    _, _, ((key, data),) = status.to_grpc(error)
    assert key == "grpc-status-details-bin"
    return status.from_rich(status_pb2.Status.FromString(data))


def trailer_bytes(error: errors.TandemError) -> int:
    """What the trailers take on the wire at worst: the message percent-encoded, the details in base64."""
    _, message, ((key, data),) = status.to_grpc(error)
    return 3 * len(message.encode()) + len(key) + len(base64.b64encode(data)) + len("grpc-messagegrpc-status16")


def test_the_tree_is_the_whole_tree() -> None:
    found, todo = set(), [errors.TandemError]
    while todo:
        children = todo.pop().__subclasses__()
        found.update(children)
        todo += children
    assert {cls for cls in found if cls.__module__ == "tandem.errors"} == set(CODES)


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.__name__)
def test_round_trip_keeps_class_code_reason_and_metadata(cls: type[errors.TandemError]) -> None:
    sent = make(cls, "what happened", metadata={"key": "value"}, reason="SPECIAL")
    code, message, _ = status.to_grpc(sent)
    got = travel(sent)
    assert code.name == CODES[cls] == cls.code
    assert type(got) is cls
    assert (got.reason, got.metadata) == ("SPECIAL", {"key": "value"})
    assert got.message == message == ("internal error" if cls is errors.Internal else "what happened")


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.__name__)
def test_reason_has_a_default(cls: type[errors.TandemError]) -> None:
    assert travel(make(cls, "x")).reason == cls.reason != "UNKNOWN"


@given(
    cls=st.sampled_from(list(CODES)),
    message=TEXT,
    reason=TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=100),
)
def test_anything_can_be_sent_and_fits_the_trailers(
    cls: type[errors.TandemError], message: str, reason: str, metadata: dict[str, str]
) -> None:
    error = make(cls, message, metadata=metadata, reason=reason or None)
    assert type(travel(error)) is cls
    assert trailer_bytes(error) <= 8192


@given(st.lists(st.tuples(TEXT, TEXT), max_size=100))
def test_violations_travel_cut_to_what_fits(rows: list[tuple[str, str]]) -> None:
    error = errors.InvalidInput(
        "many", [errors.FieldViolation(*row) for row in rows], metadata={str(n): "v" * 500 for n in range(50)}
    )
    got = travel(error)
    assert isinstance(got, errors.InvalidInput)
    assert len(got.violations) <= len(rows)
    assert bool(got.violations) == bool(rows)
    assert trailer_bytes(error) <= 8192


def test_a_violation_names_its_field() -> None:
    got = travel(errors.InvalidInput.of("query.text", "must not be empty"))
    assert isinstance(got, errors.InvalidInput)
    assert got.violations == (errors.FieldViolation("query.text", "must not be empty"),)
    assert got.message == "query.text must not be empty"


def test_internal_says_nothing() -> None:
    rich = status.to_rich(errors.Internal("the secret cause"))
    assert rich.message == "internal error"
    assert b"secret" not in rich.SerializeToString()


@given(st.floats())
def test_retry_delay_is_any_number(seconds: float) -> None:
    got = travel(errors.Unavailable("later", retry_after_s=seconds))
    assert isinstance(got, errors.Unavailable)
    if math.isfinite(seconds) and 0.001 <= seconds <= 3600:
        assert got.retry_after_s == pytest.approx(seconds, abs=0.001)
    got = travel(errors.Overloaded("later", retry_after_s=seconds))
    assert got.code == "RESOURCE_EXHAUSTED"


def test_unavailable_without_a_guess_has_no_retry_delay() -> None:
    got = travel(errors.Unavailable("down"))
    assert isinstance(got, errors.Unavailable)
    assert got.retry_after_s is None


@given(st.binary(max_size=200))
def test_details_of_a_strange_peer_do_no_harm(data: bytes) -> None:
    rich = status_pb2.Status(code=5, message="m")
    for name in ("ErrorInfo", "BadRequest", "RetryInfo"):
        rich.details.add(type_url=f"type.googleapis.com/google.rpc.{name}", value=data)
    assert isinstance(status.from_rich(rich), errors.NotFound)


def test_an_absurd_retry_delay_of_a_peer_does_no_harm() -> None:
    rich = status_pb2.Status(code=14)
    detail = error_details_pb2.RetryInfo()
    detail.retry_delay.seconds = 2**62
    rich.details.add().Pack(detail)
    assert isinstance(status.from_rich(rich), errors.Unavailable)


def test_unknown_codes_become_internal() -> None:
    got = status.from_rich(status_pb2.Status(message="odd"), code="ABORTED")
    assert isinstance(got, errors.Internal)
    assert "ABORTED" in got.message
    assert isinstance(status.from_rich(status_pb2.Status(code=999, message="odd")), errors.Internal)
