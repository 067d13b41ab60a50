"""What is left of a caller's deadline, and each stage's share of it."""

import time
from collections.abc import Callable

_RESERVE_SHARE, _RESERVE_MAX_S = 0.05, 0.5
_NOTHING_S = 0.01


class Budget:
    """Counts down from the caller's time, less a reserve for closing the audit record and sending the answer."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + timeout_s - min(_RESERVE_MAX_S, timeout_s * _RESERVE_SHARE)

    def left(self) -> float:
        """Returns the seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    def share(self, part: float) -> float:
        """Returns a stage's seconds: a part, 0 to 1, of what is left now."""
        return self.left() * part

    @property
    def spent(self) -> bool:
        """Tells whether nothing worth mentioning is left."""
        return self.left() < _NOTHING_S
