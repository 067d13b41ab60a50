"""The door: how many answers are made at once, and how many may wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.router.metrics import RouterMetrics
from tandem.errors import DeadlineExceeded, Overloaded

_FIRST_GUESS_S, _WEIGHT = 1.0, 0.1


class Admission:
    """Lets a bounded number in, a bounded number wait, and refuses the rest at once."""

    def __init__(self, *, max_running: int, max_waiting: int, metrics: RouterMetrics) -> None:
        self._slots = asyncio.Semaphore(max_running)
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiting = 0
        self._mean_s = _FIRST_GUESS_S
        self._metrics = metrics

    @asynccontextmanager
    async def slot(self, timeout_s: float) -> AsyncIterator[None]:
        """Holds a slot for a block; raises Overloaded, or DeadlineExceeded when its turn never comes."""
        if self._slots.locked() and self._waiting >= self._max_waiting:
            self._metrics.refused.inc()
            raise Overloaded(
                f"{self._max_running} answers are being made and {self._waiting} calls wait",
                retry_after_s=max(0.1, self._mean_s * (self._waiting + 1) / self._max_running),
            )
        await self._wait(timeout_s)
        start = time.monotonic()
        self._metrics.open_answers.inc()
        try:
            yield
        finally:
            self._metrics.open_answers.dec()
            self._slots.release()
            self._mean_s += _WEIGHT * (time.monotonic() - start - self._mean_s)

    async def _wait(self, timeout_s: float) -> None:
        self._waiting += 1
        self._metrics.waiting_answers.set(self._waiting)
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the call waited for its turn") from None
        finally:
            self._waiting -= 1
            self._metrics.waiting_answers.set(self._waiting)
