"""Whose sequence starts next: virtual token counters (arXiv 2401.00588).

Each flow, a tenant at a priority, has a counter of the tokens it was served.
The flow with the least starts next, so that a tenant with a thousand
sequences does not hold up one with a single. A flow that becomes active is
lifted to the least counter among the active ones: silence earns no credit.
While no flow is active, all debts are forgotten.
"""

from collections import deque

from services.generator.domain import Priority
from services.generator.engine.sequence import Sequence

OUTPUT_COST = 2
"""What a produced token counts for, against 1 for one that is read: it takes a place in a step of its own."""

_PRICE = {Priority.INTERACTIVE: 1, Priority.BATCH: 8}
_KEPT = 4096


class Flow:
    """Is the sequences of one tenant at one priority, in the order of their arrival."""

    __slots__ = ("counter", "key", "price", "running", "waiting")

    def __init__(self, key: tuple[str, Priority]) -> None:
        self.key = key
        self.price = _PRICE[key[1]]
        self.counter = 0
        self.waiting: deque[Sequence] = deque()
        self.running = 0


class Flows:
    """Holds the sequences that wait, and what each flow has had."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, Priority], Flow] = {}
        self._active: dict[tuple[str, Priority], Flow] = {}
        self.num_waiting = 0

    def push(self, sequence: Sequence, *, first: bool = False) -> None:
        """Puts a sequence at the end of its flow's queue, or at the head."""
        flow = self._activate((sequence.tenant, sequence.priority))
        if first:
            flow.waiting.appendleft(sequence)
        else:
            flow.waiting.append(sequence)
        self.num_waiting += 1

    def head(self) -> Sequence | None:
        """Returns the sequence that starts next; of flows that had the same, the one that came first."""
        flows = [flow for flow in self._active.values() if flow.waiting]
        if not flows:
            return None
        return min(flows, key=lambda flow: (flow.counter, flow.waiting[0].id)).waiting[0]

    def had(self, sequence: Sequence) -> int:
        """Returns what the flow of a sequence was served so far."""
        return self._active[sequence.tenant, sequence.priority].counter

    def everyone(self) -> list[Sequence]:
        """Returns all sequences that wait."""
        return [sequence for flow in self._active.values() for sequence in flow.waiting]

    def start(self, sequence: Sequence) -> None:
        """Takes the head of its flow's queue out to run."""
        flow = self._active[sequence.tenant, sequence.priority]
        flow.waiting.popleft()
        flow.running += 1
        self.num_waiting -= 1

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence that waits."""
        flow = self._active[sequence.tenant, sequence.priority]
        flow.waiting.remove(sequence)
        self.num_waiting -= 1
        self._settle(flow)

    def stop(self, sequence: Sequence) -> None:
        """Notes that a sequence no longer runs."""
        flow = self._active[sequence.tenant, sequence.priority]
        flow.running -= 1
        self._settle(flow)

    def charge(self, sequence: Sequence, tokens: int) -> None:
        """Counts tokens that were served to a running sequence."""
        flow = self._active[sequence.tenant, sequence.priority]
        flow.counter += tokens * flow.price

    def _activate(self, key: tuple[str, Priority]) -> Flow:
        flow = self._active.get(key)
        if flow is not None:
            return flow
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(key)
        if self._active:
            flow.counter = max(flow.counter, min(other.counter for other in self._active.values()))
        self._active[key] = flow
        return flow

    def _settle(self, flow: Flow) -> None:
        """Forgets a flow without sequences as far as its counter says nothing any more."""
        if flow.running or flow.waiting:
            return
        del self._active[flow.key]
        if not self._active:
            self._flows.clear()
        elif len(self._flows) > _KEPT + len(self._active):
            least = min(other.counter for other in self._active.values())
            self._flows = {
                key: other for key, other in self._flows.items() if key in self._active or other.counter > least
            }
