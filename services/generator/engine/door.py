"""The door: how many calls may wait, and when the next one should come back."""

from tandem.errors import Overloaded

_MIN_RETRY_S, _MAX_RETRY_S = 0.2, 60.0
_GUESS_S = 1.0
_MEMORY = 0.8


class Door:
    """Counts the calls between arrival and the start of their first sequence."""

    def __init__(self, *, max_waiting: int, max_running: int) -> None:
        self.waiting = 0
        self._max_waiting = max_waiting
        self._max_running = max_running
        self._seconds_per_call = _GUESS_S

    def enter(self) -> None:
        """Lets a call wait; raises Overloaded where too many do."""
        if self.waiting >= self._max_waiting:
            rounds = 1 + self.waiting / self._max_running
            raise Overloaded(
                f"{self.waiting} sequences are waiting already",
                retry_after_s=min(_MAX_RETRY_S, max(_MIN_RETRY_S, rounds * self._seconds_per_call)),
            )
        self.waiting += 1

    def leave(self) -> None:
        """Notes that a call waits no longer."""
        self.waiting -= 1

    def observe(self, seconds: float) -> None:
        """Takes how long a call was served, from its start to its end."""
        self._seconds_per_call = _MEMORY * self._seconds_per_call + (1 - _MEMORY) * seconds
