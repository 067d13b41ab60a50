"""Lets changes happen one at a time, and keeps their number bounded: a few of one tenant may wait for their turn."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from tandem.errors import Overloaded, Unavailable

T = TypeVar("T")
_MAX_PENDING = 5
"""Changes of one tenant at a time: one that is made and those that wait."""


class Changes:
    """Makes the changes that callers ask for. All methods belong on the event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._pending: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Keeps other changes out for the block."""
        async with self._lock:
            yield

    async def make(self, tenant: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what the work returns when its turn has come.

        Once it has begun it goes on to its end, even if its caller leaves; a
        caller who leaves before takes it along. Raises Overloaded where as
        many of the tenant's changes wait as may.
        """
        if self._pending[tenant] >= _MAX_PENDING:
            message = "other changes of this tenant's adapters are under way"
            raise Overloaded(message, retry_after_s=1.0, reason="TOO_MANY_CHANGES")
        self._pending[tenant] += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave(tenant)
            raise
        if self._stopped:
            self._lock.release()
            self._leave(tenant)
            raise Unavailable("the generator is stopping")
        task = self.keep(asyncio.create_task(work(), name="change adapters"))
        task.add_done_callback(partial(self._end, tenant))
        return await asyncio.shield(task)

    def keep(self, task: "asyncio.Task[T]") -> "asyncio.Task[T]":
        """Returns the task, which `stop` ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Ends what is under way, and lets nothing more begin."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, tenant: str, _: asyncio.Task[Any]) -> None:
        self._lock.release()
        self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        self._pending[tenant] -= 1
        if not self._pending[tenant]:
            del self._pending[tenant]
