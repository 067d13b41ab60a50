"""One breaker for each peer: a peer that keeps failing is left alone for a while, and its callers are told at once.

Closed, open and half open as in M. Nygard, Release It!, 2nd edition, 2018, chapter 5. What opens a breaker, and what
the library leaves to this module: docs/adr/0012-breakers.md.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from circuitbreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker

from services.router.backend.failures import failures
from services.router.metrics import RouterMetrics
from tandem.errors import Cancelled, DeadlineExceeded, Internal, TandemError, Unavailable

log = logging.getLogger(__name__)

BREAKER_OPEN = "BREAKER_OPEN"
"""Reason of the failure of a call that was not made."""
_LEVELS = {STATE_CLOSED: 0, STATE_HALF_OPEN: 1, STATE_OPEN: 2}
_LEAST_PATIENCE_S = 0.25
"""A deadline nearer than this says more of the caller than of the peer."""
_WHOLE = 0.9
"""Share of a call's time after which its cancellation is its deadline: the stage around it ends a moment earlier."""


@dataclass(eq=False)
class Call:
    """Is one call to a peer, as its breaker sees it."""

    timeout_s: float
    start: float
    trial: bool
    answering: bool = False

    @property
    def patient(self) -> bool:
        """Tells whether a deadline that passes would be the peer's failure."""
        return not self.answering and self.timeout_s >= _LEAST_PATIENCE_S


class Breaker:
    """Guards the calls to one peer. Refusals of a living peer close it; callers who leave count as nothing.

    While it is open only the trial decides: the results of calls that began before are not counted.
    """

    def __init__(
        self,
        component: str,
        *,
        max_failures: int,
        open_s: float,
        metrics: RouterMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._component = component
        self._breaker = CircuitBreaker(
            failure_threshold=max_failures,
            recovery_timeout=open_s,
            expected_exception=(Unavailable, DeadlineExceeded, Internal),
            name=component,
        )
        self._clock = clock
        self._trying = False
        self._told = STATE_CLOSED
        metrics.breaker_state.labels(component).set_function(lambda: _LEVELS[self.state])

    @property
    def state(self) -> str:
        """Is "closed", "half_open" or "open"."""
        return str(self._breaker.state)

    @contextmanager
    def calling(self, timeout_s: float) -> Iterator[Callable[[], None]]:
        """Guards the call made inside; what it yields is to be called when a stream begins to answer.

        Raises the call's failure as TandemError, and Unavailable at once where the peer is not asked for now.
        """
        call = self._admit(timeout_s)
        try:
            with failures():
                yield lambda: self._answering(call)
        except asyncio.CancelledError:
            if call.patient and self._clock() - call.start >= _WHOLE * timeout_s:
                self._count(call, DeadlineExceeded(f"the {self._component} did not answer in time"))
            raise
        except DeadlineExceeded as error:
            if call.patient:
                self._count(call, error)
            raise
        except Cancelled:
            raise
        except TandemError as error:
            self._count(call, error)
            raise
        else:
            self._count(call, None)
        finally:
            self._release(call)

    def _admit(self, timeout_s: float) -> Call:
        state = self.state
        if state == STATE_OPEN or self._trying:
            raise Unavailable(
                f"the {self._component} is not asked for now: its last calls failed",
                retry_after_s=max(1.0, float(self._breaker.open_remaining)),
                reason=BREAKER_OPEN,
                metadata={"component": self._component},
            )
        self._trying = state == STATE_HALF_OPEN
        self._tell()
        return Call(timeout_s=timeout_s, start=self._clock(), trial=self._trying)

    def _answering(self, call: Call) -> None:
        call.answering = True
        if call.trial:
            self._count(call, None)
            self._release(call)

    def _release(self, call: Call) -> None:
        if call.trial:
            call.trial = self._trying = False

    def _count(self, call: Call, error: TandemError | None) -> None:
        if not call.trial and not self._breaker.closed:
            return
        with suppress(TandemError), self._breaker:
            if error is not None:
                raise error
        self._tell()

    def _tell(self) -> None:
        state = self.state
        if state == self._told:
            return
        self._told = state
        if state == STATE_OPEN:
            log.warning("peer is left alone", extra={"component": self._component, "state": state})
        else:
            log.info("peer is asked again", extra={"component": self._component, "state": state})
