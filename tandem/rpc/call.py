"""The call that is being served: who asks, and how long is left. Set by the interceptors, read by servicers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tandem.errors import PermissionDenied, Unauthenticated
from tandem.security import Principal

# Metadata in which a service names the principal that it speaks for.
PRINCIPAL_KEY = "x-tandem-principal-bin"


@dataclass(frozen=True)
class Call:
    """Is what the interceptors know about a call; deadline is in seconds of time.monotonic."""

    principal: Principal | None
    deadline: float | None


_current: ContextVar[Call | None] = ContextVar("tandem_call", default=None)


def enter(call: Call) -> None:
    """Makes call the current one for the rest of this task."""
    _current.set(call)


@contextmanager
def bind(*, principal: Principal | None = None, deadline: float | None = None) -> Iterator[None]:
    """Makes a call the current one for a block; deadline is in seconds of time.monotonic."""
    token = _current.set(Call(principal=principal, deadline=deadline))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Call | None:
    """Returns the call that is being served, if any."""
    return _current.get()


def principal() -> Principal:
    """Returns who is asking; raises Unauthenticated outside an authenticated call."""
    call = _current.get()
    if call is None or call.principal is None:
        raise Unauthenticated("this call carries no identity")
    return call.principal


def require_role(role: str, *others: str) -> Principal:
    """Returns who is asking if it has one of the roles; raises PermissionDenied, naming the first, otherwise."""
    caller = principal()
    if caller.roles.isdisjoint((role, *others)):
        raise PermissionDenied(f'this needs the role "{role}"', metadata={"role": role})
    return caller


def remaining() -> float | None:
    """Returns the seconds until the call's deadline, never negative; None when there is no call or no deadline."""
    call = _current.get()
    if call is None or call.deadline is None:
        return None
    return max(0.0, call.deadline - time.monotonic())
