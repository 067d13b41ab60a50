"""The batch queue: nothing lost, nothing twice, budgets kept, shares fair."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.embedder.engine.batching import BatchQueue

lengths = st.integers(min_value=1, max_value=64)
calls = st.lists(st.lists(lengths, min_size=1, max_size=30), max_size=12)


def drain(queue: BatchQueue[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    batches = []
    while batch := queue.take():
        batches.append([entry.payload for entry in batch])
    return batches


def fill(queue: BatchQueue[tuple[int, int]], texts: list[list[int]]) -> None:
    for lane, call in enumerate(texts):
        queue.push(lane, [(length, (lane, index)) for index, length in enumerate(call)])


@given(texts=calls, max_tokens=st.integers(64, 512), max_texts=st.integers(1, 20))
def test_every_text_leaves_exactly_once_within_the_budget(
    texts: list[list[int]], max_tokens: int, max_texts: int
) -> None:
    queue: BatchQueue[tuple[int, int]] = BatchQueue(max_tokens=max_tokens, max_texts=max_texts)
    fill(queue, texts)
    batches = drain(queue)
    left = [payload for batch in batches for payload in batch]
    assert sorted(left) == [(lane, index) for lane, call in enumerate(texts) for index in range(len(call))]
    for batch in batches:
        longest = max(texts[lane][index] for lane, index in batch)
        assert len(batch) <= max_texts
        assert longest * len(batch) <= max_tokens
    assert len(queue) == 0


@given(texts=calls.filter(bool))
def test_a_call_waits_for_at_most_one_batch_of_each_call_before_it(
    texts: list[list[int]],
) -> None:
    queue: BatchQueue[tuple[int, int]] = BatchQueue(max_tokens=128, max_texts=8)
    fill(queue, texts)
    batches = drain(queue)
    for lane in range(len(texts)):
        place = next(place for place, batch in enumerate(batches) if any(of == lane for of, _ in batch))
        assert place <= lane


def test_texts_of_different_calls_share_a_batch() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=100, max_texts=8)
    for lane in range(4):
        queue.push(lane, [(5, f"call {lane}")])
    assert [entry.payload for entry in queue.take()] == ["call 0", "call 1", "call 2", "call 3"]


def test_a_short_text_does_not_wait_for_long_ones() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=2048, max_texts=64)
    queue.push("query", [(12, "query")])
    queue.push("ingest", [(250, f"passage {number}") for number in range(8)])
    assert [entry.payload for entry in queue.take()] == ["query"]
    assert len(queue.take()) == 8


def test_a_query_goes_before_the_rest_of_a_long_call() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=100, max_texts=1)
    queue.push("bulk", [(10, "bulk"), (10, "bulk"), (10, "bulk")])
    assert queue.take()[0].payload == "bulk"
    queue.push("query", [(10, "query")])
    assert [batch[0].payload for batch in iter(queue.take, [])] == ["query", "bulk", "bulk"]


def test_queries_that_keep_coming_do_not_starve_a_long_call() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=100, max_texts=10)
    queue.push("bulk", [(100, "bulk")] * 10)
    served = []
    for number in range(200):
        queue.push(number, [(10, "query"), (10, "query")])
        served += [entry.payload for entry in queue.take()]
    assert served.count("bulk") == 10


def test_a_call_that_paused_has_saved_nothing_up() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=100, max_texts=1)
    queue.push("pauses", [(10, "pauses")])
    queue.take()
    queue.push("works", [(10, "works")] * 20)
    for _ in range(10):
        queue.take()
    queue.push("pauses", [(10, "pauses")] * 10)
    assert [queue.take()[0].payload for _ in range(6)].count("works") >= 2


def test_a_text_beyond_the_budget_runs_alone() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=10, max_texts=8)
    queue.push("call", [(12, "long"), (12, "as long")])
    assert [[entry.payload for entry in batch] for batch in iter(queue.take, [])] == [["long"], ["as long"]]


def test_a_discarded_call_leaves_nothing_behind() -> None:
    queue: BatchQueue[str] = BatchQueue(max_tokens=10, max_texts=1)
    queue.push("leaves", [(3, "a"), (3, "b")])
    queue.push("stays", [(3, "c")])
    assert [entry.payload for entry in queue.take()] == ["a"]
    queue.discard("leaves")
    queue.discard("leaves")
    assert len(queue) == 1
    assert [entry.payload for entry in queue.take()] == ["c"]


class QueueMachine(RuleBasedStateMachine):
    """Pushes, takes and discards in any order against a plain model: the set of texts that wait, by call."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: BatchQueue[int] = BatchQueue(max_tokens=64, max_texts=4)
        self.waiting: dict[int, list[int]] = {}
        self.next = 0

    @rule(lane=st.integers(0, 4), texts=st.lists(lengths, max_size=6))
    def push(self, lane: int, texts: list[int]) -> None:
        numbers = [self.next + offset for offset in range(len(texts))]
        self.next += len(texts)
        self.queue.push(lane, zip(texts, numbers, strict=True))
        self.waiting.setdefault(lane, []).extend(numbers)

    @rule(lane=st.integers(0, 4))
    def discard(self, lane: int) -> None:
        self.queue.discard(lane)
        self.waiting.pop(lane, None)

    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        assert bool(batch) == any(self.waiting.values())
        assert len(batch) <= 4
        assert max((entry.num_tokens for entry in batch), default=0) * len(batch) <= 64
        for entry in batch:
            self.waiting[entry.lane].remove(entry.payload)

    @invariant()
    def counts_what_waits(self) -> None:
        assert len(self.queue) == sum(map(len, self.waiting.values()))


TestQueueMachine = QueueMachine.TestCase
