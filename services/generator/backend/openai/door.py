"""The door before a server: how many sequences run there, how many wait, and whose turn it is."""

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field

from services.generator.domain import Priority
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Overloaded

_BATCH_PRICE = 8
_MAX_FLOWS = 1024
"""Flows that are remembered; of the idle ones those served least are forgotten first."""


@dataclass(eq=False)
class Flow:
    """Is what one tenant asks for at one priority, with the tokens it was served, by price."""

    tenant: str
    priority: Priority
    served: float = 0.0
    running: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    @property
    def active(self) -> bool:
        """Tells whether the flow has sequences."""
        return self.running > 0 or bool(self.waiting)


class Door:
    """Admits `max_running` sequences and lets `max_waiting` wait: of the flows that wait, the least served goes next.

    The server decides what it computes in which step; only what it does not
    have yet can be ordered fairly (virtual token counters, arXiv 2401.00588).
    A flow that becomes active again starts no lower than the least served
    active one, so nobody saves up turns.
    """

    def __init__(self, *, max_running: int, max_waiting: int, metrics: GeneratorMetrics) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._flows: dict[tuple[str, Priority], Flow] = {}
        self._running = 0
        self._waiting = 0
        self._arrivals = itertools.count()
        self._seconds_per_sequence = 1.0

    async def enter(self, tenant: str, priority: Priority) -> Flow:
        """Waits for a place, to be given back with `leave`; raises Overloaded where too many wait already."""
        if self._waiting >= self._max_waiting and self._running >= self._max_running:
            self._metrics.refused.inc()
            raise Overloaded(f"{self._waiting} sequences are waiting already", retry_after_s=self._retry_after())
        flow = self._activate(tenant, priority)
        await self._place(flow)
        return flow

    def leave(self, flow: Flow, *, seconds: float | None = None) -> None:
        """Gives a place back, to whoever's turn it is; seconds is how long it was held, where that tells anything."""
        if seconds is not None:
            self._seconds_per_sequence = 0.8 * self._seconds_per_sequence + 0.2 * seconds
        flow.running -= 1
        self._running -= 1
        self._metrics.running.set(self._running)
        # A waiter whose task was cancelled just now takes itself out of the queue.
        waiting = [known for known in self._flows.values() if any(not turn.done() for _, turn in known.waiting)]
        if not waiting:
            return
        chosen = min(waiting, key=lambda known: (known.served, known.running, known.waiting[0][0]))
        entry = next(entry for entry in chosen.waiting if not entry[1].done())
        chosen.waiting.remove(entry)
        self._count_waiting(-1)
        self._start(chosen)
        entry[1].set_result(None)

    def charge(self, flow: Flow, tokens: int) -> None:
        """Books tokens that were computed for a flow."""
        flow.served += tokens * (_BATCH_PRICE if flow.priority is Priority.BATCH else 1)

    def _retry_after(self) -> float:
        rounds = 1 + self._waiting / self._max_running
        return min(60.0, max(0.2, rounds * self._seconds_per_sequence))

    def _activate(self, tenant: str, priority: Priority) -> Flow:
        flow = self._flows.get((tenant, priority))
        if flow is None:
            idle = [known for known in self._flows.values() if not known.active]
            if len(self._flows) >= _MAX_FLOWS and idle:
                least = min(idle, key=lambda known: known.served)
                del self._flows[least.tenant, least.priority]
            flow = self._flows[tenant, priority] = Flow(tenant, priority)
        if not flow.active:
            least_served = min((known.served for known in self._flows.values() if known.active), default=flow.served)
            flow.served = max(flow.served, least_served)
        return flow

    async def _place(self, flow: Flow) -> None:
        if self._running < self._max_running:
            self._start(flow)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (next(self._arrivals), turn)
        flow.waiting.append(entry)
        self._count_waiting(1)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                flow.waiting.remove(entry)
                self._count_waiting(-1)
            else:
                self.leave(flow)
            raise

    def _start(self, flow: Flow) -> None:
        flow.running += 1
        self._running += 1
        self._metrics.running.set(self._running)

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        self._metrics.waiting.set(self._waiting)
