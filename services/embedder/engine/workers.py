"""Owns the threads that tokenise and compute, for all models of the process."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """Tokenises on one thread and computes on ``num_workers`` others, so that each waits for neither.

    Batches of different models take turns in the order in which they asked for a slot.
    """

    def __init__(self, num_workers: int) -> None:
        self.slot = asyncio.Semaphore(num_workers)
        """Held while a batch is put together and runs."""
        self._tokenizer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        self._models = ThreadPoolExecutor(max_workers=num_workers, thread_name_prefix="infer")

    async def tokenize(self, work: Callable[[], T]) -> T:
        """Returns what ``work`` returns on the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer, work)

    async def compute(self, work: Callable[[], T]) -> T:
        """Returns what ``work`` returns on one of the models' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._models, work)

    async def stop(self) -> None:
        """Waits for what runs. Safe to call more than once."""
        for threads in (self._tokenizer, self._models):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
