"""Work that is never left half done."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Returns what the work returns; who is cancelled meanwhile, however often, leaves only when it is done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        raise


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and returns when all have ended; who is cancelled meanwhile leaves only then, too."""
    for task in tasks:
        task.cancel()
    waited_for = [task for task in tasks if not task.done()]
    if waited_for:
        await finished(_wait(waited_for))
    for task in tasks:
        if not task.cancelled():
            task.exception()  # nobody waits for it any more


async def _wait(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


class Together:
    """Owns work that runs at the same time: what is left of it when the block ends is cancelled and waited for."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> "Together":
        return self

    async def __aexit__(self, *_: object) -> None:
        await ended(*self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins work."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task
