"""What a servicer can ask about the call it serves."""

import time

import pytest

from tandem.errors import PermissionDenied, Unauthenticated
from tandem.rpc import call
from tandem.security import Principal

ALICE = Principal("alice", "halden", roles=frozenset({"user"}))


def test_outside_a_call_there_is_nobody() -> None:
    assert call.current() is None
    assert call.remaining() is None
    with pytest.raises(Unauthenticated):
        call.principal()


def test_inside_a_call_there_is_its_principal_until_it_ends() -> None:
    with call.bind(principal=ALICE):
        assert call.principal() == call.require_role("user") == ALICE
        assert call.remaining() is None
        with pytest.raises(PermissionDenied) as caught:
            call.require_role("editor")
        assert caught.value.metadata == {"role": "editor"}
        assert call.require_role("editor", "user") == ALICE
    assert call.current() is None


def test_what_is_left_is_never_negative() -> None:
    with call.bind(deadline=time.monotonic() - 5):
        assert call.remaining() == 0
    with call.bind(deadline=time.monotonic() + 60):
        left = call.remaining()
        assert left is not None
        assert 0 < left <= 60
