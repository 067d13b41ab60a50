"""Work that is done once, however many ask for it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from tandem.tasks import ended

T = TypeVar("T")


class Once(Generic[T]):
    """Does work when it is first asked for, and gives all who ask its one result or failure.

    It is cancelled when the last who waits for it has left, and begins anew should somebody ask again.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._num_waiting = 0

    async def get(self) -> T:
        """Returns the result; raises what the work raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        task = self._task
        self._num_waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._num_waiting -= 1
            if not self._num_waiting and not task.done():
                self._task = None
                await ended(task)

    @property
    def begun(self) -> bool:
        """Tells whether the work is done, or being done."""
        return self._task is not None
