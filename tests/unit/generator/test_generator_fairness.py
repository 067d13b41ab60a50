"""Whose sequence starts next."""

from hypothesis import given
from hypothesis import strategies as st

from services.generator.domain import Priority
from services.generator.engine.fairness import Flows
from services.generator.engine.sequence import Sequence


class Queue:
    """Serves one sequence at a time, each at a cost of its own."""

    def __init__(self) -> None:
        self.flows = Flows()
        self._ids = 0

    def push(self, tenant: str, priority: Priority = Priority.INTERACTIVE) -> Sequence:
        sequence = Sequence(id=self._ids, tenant=tenant, priority=priority, streams=(), arrived=0.0)
        self._ids += 1
        self.flows.push(sequence)
        return sequence

    def serve(self, cost: int = 10) -> str:
        sequence = self.flows.head()
        assert sequence is not None
        self.flows.start(sequence)
        self.flows.charge(sequence, cost)
        self.flows.stop(sequence)
        return sequence.tenant


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    queue = Queue()
    sequences = [queue.push("t") for _ in range(3)]
    served = []
    while (head := queue.flows.head()) is not None:
        served.append(head)
        queue.serve()
    assert served == sequences


def test_tenants_take_turns_however_many_sequences_one_has() -> None:
    queue = Queue()
    for _ in range(6):
        queue.push("many")
    for _ in range(2):
        queue.push("few")
    assert [queue.serve() for _ in range(5)] == ["many", "few", "many", "few", "many"]


def test_the_costly_wait_longer() -> None:
    queue = Queue()
    for _ in range(8):
        queue.push("long")
        queue.push("short")
    served = []
    for _ in range(8):
        head = queue.flows.head()
        assert head is not None
        served.append(queue.serve(30 if head.tenant == "long" else 10))
    assert served.count("short") == 3 * served.count("long")


def test_silence_earns_no_credit() -> None:
    queue = Queue()
    queue.push("late")
    for _ in range(40):
        queue.push("busy")
    queue.serve()
    for _ in range(20):
        assert queue.serve() == "busy"
    for _ in range(5):
        queue.push("late")
    assert [queue.serve() for _ in range(6)].count("late") == 3


def test_leaving_and_coming_back_pays_no_debt() -> None:
    queue = Queue()
    for _ in range(10):
        queue.push("other")
    queue.push("greedy")
    queue.serve(1)
    assert queue.serve(500) == "greedy"
    queue.push("greedy")
    assert [queue.serve(10) for _ in range(9)] == ["other"] * 9


def test_batch_pays_eight_times() -> None:
    queue = Queue()
    for _ in range(20):
        queue.push("t", Priority.BATCH)
        queue.push("u")
    served = [queue.serve() for _ in range(18)]
    assert served.count("t") == 2


def test_who_gave_way_goes_on_first() -> None:
    queue = Queue()
    first, second = queue.push("t"), queue.push("t")
    queue.flows.start(first)
    queue.flows.push(first, first=True)
    queue.flows.stop(first)
    assert queue.flows.head() is first
    queue.flows.drop(first)
    assert queue.flows.head() is second
    assert queue.flows.everyone() == [second]


def test_flows_that_are_gone_leave_nothing_behind() -> None:
    queue = Queue()
    for n in range(500):
        queue.push(f"t{n}")
    for _ in range(500):
        queue.serve()
    assert queue.flows.num_waiting == 0
    assert queue.flows.head() is None
    assert queue.flows._flows == queue.flows._active == {}


@given(st.lists(st.tuples(st.sampled_from("tuvw"), st.sampled_from(Priority), st.integers(1, 50)), max_size=60))
def test_flows_with_work_never_drift_apart_by_more_than_a_sequence(pushes: list[tuple[str, Priority, int]]) -> None:
    queue = Queue()
    for tenant, priority, _ in pushes:
        queue.push(tenant, priority)
    costs = iter([cost for _, _, cost in pushes])
    while queue.flows.head() is not None:
        queue.serve(next(costs))
        waiting = [flow.counter for flow in queue.flows._active.values() if flow.waiting]
        assert not waiting or max(waiting) - min(waiting) <= 50 * 8
