"""Bounds how many tokens wait for the model."""

import asyncio
from collections import deque


class Admission:
    """Counts the tokens that wait and admits more while there is room.

    An empty queue admits a demand of any size: requests are bounded themselves, and one that could never enter would
    be refused for ever. Used from one event loop.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._held = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Tokens that wait now."""
        return self._held

    def excess(self, tokens: int) -> int:
        """Returns how many tokens must leave before ``tokens`` more may enter; 0 if they may now."""
        return max(0, self._held + tokens - self._max_tokens) if self._held else 0

    def take(self, tokens: int) -> None:
        """Counts ``tokens`` in, room or not; negative numbers correct an estimate."""
        self._held += tokens
        if tokens < 0:
            self._admit_waiters()

    def release(self, tokens: int) -> None:
        """Counts ``tokens`` out and lets waiting demands in, first come first served."""
        self.take(-tokens)

    async def wait(self, tokens: int) -> None:
        """Counts ``tokens`` in as soon as the queue stays at most half full with them.

        The other half stays free for demands that are refused instead of waiting.
        """
        if not self._waiters and self._fits_half(tokens):
            self._held += tokens
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((tokens, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._admit_waiters()  # the next in line may fit where this one did not
            else:  # admitted and cancelled in the same turn of the loop
                self.release(tokens)
            raise

    def _fits_half(self, tokens: int) -> bool:
        return self._held == 0 or self._held + tokens <= self._max_tokens // 2

    def _admit_waiters(self) -> None:
        while self._waiters and (self._waiters[0][1].cancelled() or self._fits_half(self._waiters[0][0])):
            tokens, future = self._waiters.popleft()
            if not future.cancelled():
                self._held += tokens
                future.set_result(None)
