"""Remembers how fast the model has been lately, to tell a refused caller when to come again."""

_MIN_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 30.0
_MEMORY = 0.9
"""Share of its weight that a batch keeps with each batch after it."""


class Pace:
    """Estimates how long tokens take, from recent batches. The first one must be remembered before the first guess."""

    def __init__(self, *, workers: int) -> None:
        self._workers = workers
        self._tokens = 0.0
        self._seconds = 0.0

    def remember(self, num_tokens: int, seconds: float) -> None:
        """Counts a batch in."""
        self._tokens = _MEMORY * self._tokens + num_tokens
        self._seconds = _MEMORY * self._seconds + seconds

    def seconds_for(self, tokens: int) -> float:
        """Returns how long all workers together take for so many tokens: a tenth of a second to half a minute."""
        seconds = tokens * self._seconds / self._tokens / self._workers
        return min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
