"""The door: how many calls may wait, and when the next one should come back."""

from collections import Counter

from tandem.errors import Overloaded

_MIN_RETRY_S, _MAX_RETRY_S = 0.2, 60.0
_GUESS_S = 1.0
_MEMORY = 0.8


class Door:
    """Counts the calls between arrival and the start of their first sequence.

    The last quarter of the places is kept for tenants of whom no call waits
    yet, so that a flood of one does not turn the others away.
    """

    def __init__(self, *, max_waiting: int, max_running: int) -> None:
        self._waiting: Counter[str] = Counter()
        self._max_waiting = max_waiting
        self._max_running = max_running
        self._seconds_per_call = _GUESS_S

    @property
    def waiting(self) -> int:
        """Returns how many calls wait."""
        return self._waiting.total()

    def enter(self, tenant: str) -> None:
        """Lets a call wait; raises Overloaded where too many do, of all tenants or of this one."""
        kept = self._max_waiting // 4 if self._waiting[tenant] else 0
        if self.waiting >= self._max_waiting - kept:
            rounds = 1 + self.waiting / self._max_running
            raise Overloaded(
                f"{self.waiting} sequences are waiting already",
                retry_after_s=min(_MAX_RETRY_S, max(_MIN_RETRY_S, rounds * self._seconds_per_call)),
            )
        self._waiting[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Notes that a call waits no longer."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]

    def observe(self, seconds: float) -> None:
        """Takes how long a call was served, from its start to its end."""
        self._seconds_per_call = _MEMORY * self._seconds_per_call + (1 - _MEMORY) * seconds
