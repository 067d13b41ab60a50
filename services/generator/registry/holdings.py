"""The versions whose weights are in memory, and what keeps each of them there.

A version is held by the names that stand for it and by the pins of the
sequences that run on it. When the last of both is gone its weights are
dropped. The counts are kept on the event loop, where holds and pins are taken
and released; loading and dropping happen in one thread, in the order in which
they were decided.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from services.generator.domain import Adapter, Adapters, Pin
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Overloaded, TooLarge

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Held:
    """Is a version in memory, with the number of names and of pins that keep it there."""

    adapter: Adapter
    num_holds: int = 0
    num_pins: int = 0


class Holdings:
    """Brings versions into memory and drops those that nothing holds. All methods belong on the event loop."""

    def __init__(self, adapters: Adapters, *, max_versions: int, metrics: GeneratorMetrics) -> None:
        self._adapters = adapters
        self._max_versions = max_versions
        self._metrics = metrics
        self._versions: dict[str, Held] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator-adapters")
        self._stopped = False

    async def work(self, work: Callable[[], T]) -> T:
        """Runs work in the thread, after what it has to do already."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def bring(self, adapter: Adapter, *, leaving: int = 0) -> Held:
        """Returns the version with a hold on it, after loading its weights if they are not there; one at a time.

        `leaving` versions go as soon as this one is there: for that moment
        they are in memory beside it. Raises Overloaded where others will go
        when their sequences end, TooLarge where it would not help to wait,
        ValueError and OSError as the Adapters port does.
        """
        held = self._versions.get(adapter.key)
        if held is None:
            self._check_room(leaving)
            await self.work(partial(self._adapters.load, adapter))
            held = self._versions[adapter.key] = Held(adapter)
        return self.hold(held)

    def hold(self, held: Held) -> Held:
        """Takes another hold on a version that is in memory, and returns it; raises LookupError for one that is not."""
        if self._versions.get(held.adapter.key) is not held:
            raise LookupError("a version that has left the memory cannot be held")
        held.num_holds += 1
        self._gauge()
        return held

    def release(self, held: Held) -> None:
        """Gives a hold back."""
        held.num_holds -= 1
        self._drop_if_free(held)

    def pin(self, held: Held) -> Pin:
        """Returns a pin on a version that is in memory."""
        held.num_pins += 1
        return Pin(held.adapter, partial(self._unpin, held))

    def of(self, tenant: str, name: str) -> list[Held]:
        """Returns the versions of an adapter that are in memory, retired ones included."""
        return [held for held in self._versions.values() if (held.adapter.tenant, held.adapter.name) == (tenant, name)]

    async def stop(self) -> None:
        """Ends the thread, after the load in progress; nothing is dropped any more."""
        self._stopped = True
        await asyncio.to_thread(self._thread.shutdown)

    def _check_room(self, leaving: int) -> None:
        if len(self._versions) - leaving < self._max_versions:
            return
        retired = self._num_retired()
        message = f"{len(self._versions)} adapters are in memory, of which {retired} only until their sequences end"
        if retired:
            raise Overloaded(message, retry_after_s=1.0, reason="TOO_MANY_ADAPTERS")
        raise TooLarge(f"{message}; unload one first", reason="TOO_MANY_ADAPTERS")

    def _unpin(self, held: Held) -> None:
        held.num_pins -= 1
        self._drop_if_free(held)

    def _drop_if_free(self, held: Held) -> None:
        key = held.adapter.key
        if held.num_holds == 0 and held.num_pins == 0 and not self._stopped:
            del self._versions[key]
            self._thread.submit(self._adapters.unload, key).add_done_callback(_tell)
            self._metrics.adapter_unloads.inc()
        self._gauge()

    def _num_retired(self) -> int:
        return sum(1 for held in self._versions.values() if held.num_holds == 0)

    def _gauge(self) -> None:
        retired = self._num_retired()
        self._metrics.adapters.set(len(self._versions) - retired)
        self._metrics.adapters_retired.set(retired)


def _tell(dropping: Future[None]) -> None:
    if error := dropping.exception():
        log.error("the weights of an adapter could not be dropped", exc_info=error)
