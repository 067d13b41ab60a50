"""Gathers items of many callers into batches: what waits while a batch is under way makes up the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tandem.errors import TandemError, Unavailable

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Waiting(Generic[T, R]):
    item: T
    weight: int
    result: asyncio.Future[R]


class Batcher(Generic[T, R]):
    """Runs batches of at most max_weight and max_items; a heavier item goes alone. Callers that leave are dropped.

    The queue is bounded by those who submit: each stream has a bounded number of documents under way.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        max_weight: int,
        max_items: int,
        concurrency: int = 1,
    ) -> None:
        self._run = run
        self._max_weight = max_weight
        self._max_items = max_items
        self._concurrency = concurrency
        self._queue: deque[_Waiting[T, R]] = deque()
        self._arrival = asyncio.Condition()
        self._loops: list[asyncio.Task[None]] = []
        self._closed = False

    def start(self) -> None:
        """Begins to run batches, outside of any call's context."""
        self._loops = [asyncio.create_task(self._loop()) for _ in range(self._concurrency)]

    async def stop(self) -> None:
        """Fails what waits, and ends."""
        self._closed = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        while self._queue:
            self._fail([self._queue.popleft()], Unavailable("the retriever is stopping"))

    async def submit(self, item: T, *, weight: int) -> R:
        """Returns the item's result; raises what its batch raised."""
        if self._closed:
            raise Unavailable("the retriever is stopping")
        waiting: _Waiting[T, R] = _Waiting(item, weight, asyncio.get_running_loop().create_future())
        async with self._arrival:
            self._queue.append(waiting)
            self._arrival.notify()
        return await waiting.result

    async def _loop(self) -> None:
        while True:
            async with self._arrival:
                await self._arrival.wait_for(lambda: self._queue)
                batch = self._take()
            if not batch:
                continue
            try:
                results = await self._run([waiting.item for waiting in batch])
            except asyncio.CancelledError:
                self._fail(batch, Unavailable("the retriever is stopping"))
                raise
            except TandemError as error:
                self._fail(batch, error)
            except Exception as error:  # noqa: BLE001 -- a task root: the batch's callers get the failure
                self._fail(batch, error)
            else:
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.result.done():
                        waiting.result.set_result(result)

    def _take(self) -> list[_Waiting[T, R]]:
        batch: list[_Waiting[T, R]] = []
        weight = 0
        while self._queue and len(batch) < self._max_items:
            if self._queue[0].result.done():  # its caller has left
                self._queue.popleft()
                continue
            if batch and weight + self._queue[0].weight > self._max_weight:
                break
            batch.append(self._queue.popleft())
            weight += batch[-1].weight
        return batch

    @staticmethod
    def _fail(batch: Sequence[_Waiting[T, R]], error: Exception) -> None:
        for waiting in batch:
            if not waiting.result.done():
                waiting.result.set_exception(error)
