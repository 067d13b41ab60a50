"""The scheduler on a toy model: what it plans, who gives way, and what holds whatever comes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.domain import Choice, FinishReason, Limits, Mixing, Priority, Sampling, Step
from services.generator.engine.blocks import BlockPool
from services.generator.engine.pace import Pace
from services.generator.engine.scheduler import Scheduler
from services.generator.engine.sequence import Sequence, Stream
from tandem.errors import Cancelled, DeadlineExceeded, Internal
from tests.fakes.generator import END, ToyRunner, alone, score_alone


class Steady(Pace):
    """Allows a fixed number of prompt tokens beside decoding rows."""

    def __init__(self, *, alone: int, beside: int) -> None:
        super().__init__(max_tokens=alone, min_tokens=1, max_stretch=1.0)
        self._beside = beside

    def budget(self, rows: int, *, waiting: Iterable[int] = ()) -> int:
        return super().budget(0) if not rows else self._beside


class Bench:
    """Runs a scheduler's steps and checks each of them."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        sharing: bool = True,
        beside: int | None = None,
        **limits: int,
    ) -> None:
        self.limits = Limits(**limits)
        self.runner = ToyRunner(num_blocks=num_blocks, block_size=block_size, shares_blocks=sharing)
        self.pool = BlockPool(num_blocks, block_size, sharing=sharing)
        most = self.limits.max_prefill_tokens
        self.pace = Steady(alone=most, beside=most if beside is None else beside)
        self.scheduler = Scheduler(limits=self.limits, pool=self.pool, pace=self.pace)
        self.drawn: dict[int, list[Choice]] = {}
        self.started: list[int] = []
        self.ended: list[Sequence] = []
        self.preempted = 0
        self.hits = 0
        self.now = 0.0
        self._ids = 0
        self._written: dict[int, tuple[str, str | None]] = {}

    def add(
        self,
        *prompts: bytes,
        tenant: str = "t",
        adapters: tuple[str | None, ...] | None = None,
        priority: Priority = Priority.INTERACTIVE,
        max_tokens: int = 8,
        targets: bytes = b"",
        deadline: float | None = None,
        weights: tuple[float, ...] | None = None,
        ends: bool = True,
    ) -> Sequence:
        adapters = adapters or (None,) * len(prompts)
        sequence = Sequence(
            id=self._ids,
            tenant=tenant,
            priority=priority,
            streams=tuple(
                Stream([*prompt, *targets[:-1]], tenant=tenant, adapter=adapter)
                for prompt, adapter in zip(prompts, adapters, strict=True)
            ),
            arrived=self.now,
            deadline=deadline,
            sampling=None if targets else Sampling(max_tokens=max_tokens, seed=self._ids, temperature=1.0),
            max_tokens=max_tokens,
            end_tokens={END} if ends else (),
            weights=weights or (1.0,) * len(prompts),
            targets=tuple(targets),
        )
        self._ids += 1
        self.scheduler.add(sequence)
        return sequence

    def plan(self) -> Step | None:
        self.now += 1
        step = self.scheduler.plan(self.now)
        if step is not None:
            self._check(step)
        self._collect()
        return step

    def step(self, *, seconds: float = 1.0) -> bool:
        step = self.plan()
        if step is None:
            return False
        self.land(step, seconds=seconds)
        return True

    def land(self, step: Step, *, seconds: float = 1.0) -> None:
        try:
            result = self.runner.run(step)
        except RuntimeError:
            self.scheduler.fail(now=self.now)
        else:
            self.scheduler.apply(result, now=self.now, seconds=seconds)
        self._collect()

    def drain(self, *, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.step():
                break
        assert self.scheduler.num_waiting == self.scheduler.num_running == 0
        self.clean()

    def clean(self) -> None:
        assert self.runner.complaints == []
        assert self.runner.streams == set()
        assert self.pool.used == 0
        assert len({sequence.id for sequence in self.ended}) == len(self.ended)

    def tokens(self, sequence: Sequence) -> list[int]:
        return [choice.token_id for choice in self.drawn.get(sequence.id, [])]

    def expected(self, sequence: Sequence) -> list[Choice]:
        assert sequence.sampling is not None
        return alone(
            [stream.tokens[: stream.num_prompt] for stream in sequence.streams],
            sequence.sampling,
            adapters=[stream.root[1] for stream in sequence.streams],
            weights=sequence.weights,
            mixing=sequence.mixing,
            max_tokens=sequence.max_tokens,
        )

    def _collect(self) -> None:
        news = self.scheduler.collect()
        self.runner.release(news.released)
        self.started += [sequence.id for sequence in news.started]
        for sequence, choice in news.drawn:
            self.drawn.setdefault(sequence.id, []).append(choice)
        self.ended += news.ended
        self.preempted += news.preempted
        self.hits += news.hits

    def _check(self, step: Step) -> None:
        flight = self.scheduler.flight
        assert flight is not None
        widest = max(sequence.width for sequence in flight.members.values())
        assert flight.tokens <= max(min(self.limits.max_prefill_tokens, self.pace.budget(flight.rows)), widest)
        assert flight.rows <= max(self.limits.max_running, widest)
        assert flight.rows + flight.tokens == sum(len(work.tokens) for work in step.works)
        size = self.pool.block_size
        roots = {stream.id: stream.root for s in flight.members.values() for stream in s.streams}
        for work in step.works:
            for position in range(work.start, work.start + len(work.tokens)):
                self._written[work.blocks[position // size]] = roots[work.stream]
        for work in step.works:
            for block in work.blocks[: -(-work.start // size)]:
                assert self._written[block] == roots[work.stream], "a block went across tenants or adapters"


def test_a_sequence_alone_reads_its_prompt_and_draws_in_one_step() -> None:
    bench = Bench()
    sequence = bench.add(b"hello world", max_tokens=5)
    step = bench.plan()
    assert step is not None
    assert [(work.start, len(work.tokens), len(work.blocks)) for work in step.works] == [(0, 11, 3)]
    assert len(step.draws) == 1
    bench.land(step)
    bench.drain()
    assert bench.tokens(sequence) == [choice.token_id for choice in bench.expected(sequence)]
    assert sequence.computed == 11 + 4


def test_a_long_prompt_is_read_in_chunks_between_which_others_decode() -> None:
    bench = Bench(beside=4, max_prefill_tokens=16)
    first = bench.add(b"abc", max_tokens=20)
    bench.step()
    bench.add(b"x" * 30, max_tokens=1)
    kinds = []
    while bench.scheduler.num_running or bench.scheduler.num_waiting:
        step = bench.plan()
        assert step is not None
        kinds.append([len(work.tokens) for work in step.works])
        bench.land(step)
    assert kinds[:8] == [[1, 4]] * 7 + [[1, 2]]
    assert len(bench.tokens(first)) == len(bench.expected(first))
    bench.clean()


def test_prompts_share_the_budget_first_come_first_served() -> None:
    bench = Bench(max_prefill_tokens=16)
    for letter in (b"a", b"b", b"c"):
        bench.add(letter * 10, max_tokens=1)
    sizes = []
    while (step := bench.plan()) is not None:
        sizes.append([len(work.tokens) for work in step.works])
        bench.land(step)
    assert sizes == [[10, 6], [4, 10]]


def test_a_chunk_is_never_a_crumb() -> None:
    bench = Bench(max_prefill_tokens=12)
    bench.add(b"a" * 10, max_tokens=1)
    bench.add(b"b" * 10, max_tokens=1)
    step = bench.plan()
    assert step is not None
    assert [len(work.tokens) for work in step.works] == [10]


def test_a_prefix_is_shared_even_within_the_step_that_computes_it() -> None:
    bench = Bench()
    prompts = [b"the very same beginning, " + ending for ending in (b"one", b"two", b"three")]
    sequences = [bench.add(prompt) for prompt in prompts]
    step = bench.plan()
    assert step is not None
    assert [work.start for work in step.works] == [0, 24, 24]
    bench.land(step)
    bench.drain()
    for sequence in sequences:
        assert bench.drawn[sequence.id] == bench.expected(sequence)
    assert [sequence.streams[0].cached for sequence in sequences] == [0, 24, 24]


def test_a_sequence_that_started_later_follows_on_the_blocks_of_one_still_being_read() -> None:
    bench = Bench(max_prefill_tokens=8, block_size=4)
    text = b"0123456789abcdef" * 2
    first = bench.add(text, max_tokens=1)
    bench.step()
    second = bench.add(text + b"!", max_tokens=1)
    bench.drain()
    assert first.computed == 32
    assert second.streams[0].cached == 32
    assert second.computed == 1
    assert bench.drawn[second.id] == bench.expected(second)


def test_a_prompt_that_is_all_there_computes_its_last_token() -> None:
    bench = Bench()
    bench.add(b"12345678", max_tokens=1)
    bench.drain()
    again = bench.add(b"12345678", max_tokens=1)
    bench.drain()
    assert (again.streams[0].cached, again.computed) == (4, 4)


def test_an_answer_is_there_for_the_next_turn() -> None:
    bench = Bench()
    first = bench.add(b"question", max_tokens=12)
    bench.drain()
    history = bytes(token for token in [*b"question", *bench.tokens(first)] if token != END)
    second = bench.add(history + b" and the next one")
    bench.drain()
    assert second.streams[0].cached == (len(history) - 1) // 4 * 4
    assert bench.drawn[second.id] == bench.expected(second)


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"adapters": ("x",)}])
def test_nothing_is_shared_across_tenants_and_adapters(other: dict[str, object]) -> None:
    bench = Bench()
    bench.add(b"a prompt of some length", tenant="t")
    bench.drain()
    second = bench.add(b"a prompt of some length", **other)  # type: ignore[arg-type]
    bench.drain()
    assert second.streams[0].cached == 0
    assert bench.hits == 0


def test_without_sharing_nothing_is_taken_over() -> None:
    bench = Bench(sharing=False)
    for _ in range(2):
        bench.add(b"a prompt of some length")
        bench.drain()
    assert bench.hits == bench.pool.cached == 0


def test_a_blend_reads_its_last_positions_in_the_same_step() -> None:
    bench = Bench(max_prefill_tokens=8)
    blend = bench.add(b"short", b"a prompt that is a good deal longer", adapters=("x", None), weights=(0.3, 0.7))
    draws = []
    while (step := bench.plan()) is not None:
        draws.append([len(step.works[index].tokens) for draw in step.draws for index in draw.works])
        bench.land(step)
    begun = draws.index([1, 7])
    assert not any(draws[:begun])
    assert all(row == [1, 1] for row in draws[begun + 1 :])
    assert bench.drawn[blend.id] == bench.expected(blend)
    bench.clean()


def test_the_streams_of_a_blend_share_a_prefix_too() -> None:
    bench = Bench()
    blend = bench.add(b"the same beginning, then this", b"the same beginning, then that thing", weights=(0.5, 0.5))
    bench.drain()
    assert [stream.cached for stream in blend.streams] == [0, 24]
    assert bench.drawn[blend.id] == bench.expected(blend)


def test_a_blend_of_many_short_prompts_starts_under_a_small_budget() -> None:
    bench = Bench(max_prefill_tokens=2)
    blend = bench.add(*(bytes([65 + n]) for n in range(8)), max_tokens=3)
    bench.drain()
    assert bench.drawn[blend.id] == bench.expected(blend)


def test_a_blend_wider_than_the_batch_runs_alone() -> None:
    bench = Bench(max_running=2)
    narrow = bench.add(b"narrow", max_tokens=3)
    wide = bench.add(b"one", b"two", b"three", max_tokens=3)
    after = bench.add(b"after", max_tokens=3)
    bench.drain()
    assert bench.started == [narrow.id, wide.id, after.id]
    assert all(bench.drawn[s.id] == bench.expected(s) for s in (narrow, wide, after))


def test_scores_are_read_in_chunks_and_from_shared_blocks() -> None:
    bench = Bench(max_prefill_tokens=5)
    prompt = b"which of these comes next?"
    sequences = [bench.add(prompt, targets=target) for target in (b"the first one", b"x", b"the last")]
    bench.drain()
    for sequence in sequences:
        assert sequence.scores == score_alone(prompt, sequence.targets)
        assert sequence.reason is FinishReason.STOP
    assert bench.hits == 48


def test_the_sequence_that_started_last_gives_way_and_goes_on_later() -> None:
    bench = Bench(num_blocks=8, block_size=4)
    sequences = [bench.add(letter * 9, max_tokens=12) for letter in (b"a", b"b", b"c")]
    bench.drain()
    assert bench.preempted > 0
    assert sequences[0].preemptions == 0
    for sequence in sequences:
        assert bench.drawn[sequence.id] == bench.expected(sequence)


def test_who_gave_way_goes_on_before_those_who_still_wait() -> None:
    bench = Bench(num_blocks=8, block_size=4)
    running = [bench.add(letter * 9, max_tokens=12, ends=False) for letter in (b"a", b"b")]
    bench.step()
    waiting = bench.add(b"c" * 9, max_tokens=2, ends=False)
    bench.drain()
    assert running[1].preemptions > 0
    assert bench.ended == [*running, waiting]


def test_a_batch_sequence_gives_way_before_an_interactive_one_that_started_later() -> None:
    bench = Bench(num_blocks=8, block_size=4)
    batch = bench.add(b"a" * 11, max_tokens=16, priority=Priority.BATCH, ends=False)
    bench.step()
    person = bench.add(b"b" * 11, max_tokens=16, ends=False)
    bench.drain()
    assert batch.preemptions > 0
    assert person.preemptions == 0


def test_a_batch_sequence_that_gave_way_often_enough_keeps_its_place() -> None:
    bench = Bench(num_blocks=8, block_size=4)
    batch = bench.add(b"a" * 11, max_tokens=16, priority=Priority.BATCH, ends=False)
    bench.step()
    batch.preemptions = 4
    person = bench.add(b"b" * 11, max_tokens=16, ends=False)
    bench.drain()
    assert batch.preemptions == 4
    assert person.preemptions > 0


def test_a_head_that_does_not_fit_is_not_overtaken() -> None:
    bench = Bench(num_blocks=8, block_size=4)
    bench.add(b"a" * 16, max_tokens=8)
    bench.step()
    big = bench.add(b"b" * 24, max_tokens=1)
    small = bench.add(b"c", max_tokens=1)
    bench.drain()
    assert bench.started[1:] == [big.id, small.id]


def test_a_tenant_with_one_sequence_does_not_wait_behind_a_hundred() -> None:
    bench = Bench(max_running=1)
    for _ in range(20):
        bench.add(b"busy", tenant="many", max_tokens=4)
    bench.step()
    lone = bench.add(b"lone", tenant="one", max_tokens=4)
    bench.drain()
    assert bench.started.index(lone.id) == 1


def test_batch_work_gets_its_share_and_no_more() -> None:
    bench = Bench(max_running=1, sharing=False)
    batch = [bench.add(b"%07d" % n, targets=b"xy", priority=Priority.BATCH) for n in range(3)]
    people = [bench.add(b"%07d" % n, targets=b"xy", adapters=("x",)) for n in range(30)]
    bench.drain()
    place = {sequence: bench.started.index(sequence.id) for sequence in (*batch, *people)}
    gaps = [place[batch[1]] - place[batch[0]], place[batch[2]] - place[batch[1]]]
    assert gaps == [9, 9], "eight of the others for each"


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"priority": Priority.INTERACTIVE}])
def test_a_short_prompt_does_not_wait_for_the_long_one_of_another_flow(other: dict[str, object]) -> None:
    bench = Bench(max_prefill_tokens=8)
    long = bench.add(b"x" * 60, max_tokens=1, priority=Priority.BATCH)
    for _ in range(2):
        bench.step()
    short = bench.add(b"short", max_tokens=1, **{"priority": Priority.BATCH, **other})  # type: ignore[arg-type]
    bench.step()
    bench.step()
    assert bench.ended == [short]
    bench.drain()
    assert bench.drawn[long.id] == bench.expected(long)


def test_a_cancelled_sequence_leaves_with_the_step_that_computes_it() -> None:
    bench = Bench()
    sequence = bench.add(b"hello", max_tokens=20)
    step = bench.plan()
    assert step is not None
    bench.scheduler.cancel(sequence, Cancelled("left"), now=1.0)
    assert bench.pool.used == 2
    bench.land(step)
    assert bench.ended == [sequence]
    assert bench.tokens(sequence) == []
    bench.clean()


def test_a_cancelled_sequence_that_waits_leaves_at_once() -> None:
    bench = Bench(max_running=1)
    bench.add(b"first")
    bench.step()
    second = bench.add(b"second")
    bench.scheduler.cancel(second, Cancelled("left"), now=1.0)
    bench.drain()
    assert bench.ended[0] is second
    assert second.started is None


def test_deadlines_are_kept_whether_running_or_waiting() -> None:
    bench = Bench(max_running=1)
    running = bench.add(b"first", max_tokens=20, deadline=3.5)
    waiting = bench.add(b"second", deadline=3.0)
    endless = bench.add(b"third", deadline=99.0)
    bench.step()
    assert bench.scheduler.next_deadline == 3.0
    assert bench.scheduler.expire(2.9) == []
    assert bench.scheduler.expire(4.0) == [waiting, running]
    assert bench.scheduler.next_deadline == 99.0
    bench.drain()
    assert isinstance(running.error, DeadlineExceeded)
    assert isinstance(waiting.error, DeadlineExceeded)
    assert endless.error is None


def test_a_failed_step_ends_its_sequences_and_nothing_of_it_is_used_again() -> None:
    bench = Bench(max_prefill_tokens=16)
    prompt = b"a prompt that several share"
    done = bench.add(prompt, max_tokens=1)
    bench.drain()
    assert done.error is None
    failing = bench.add(prompt + b" and more", max_tokens=3)
    bench.runner.fail_next = True
    bench.step()
    assert isinstance(failing.error, Internal)
    after = bench.add(prompt, max_tokens=3)
    bench.drain()
    assert after.streams[0].cached == 0
    assert bench.drawn[after.id] == bench.expected(after)


def test_a_failed_step_makes_others_read_again_what_they_shared_with_it() -> None:
    bench = Bench(max_prefill_tokens=8, beside=0)
    first = bench.add(b"shared beginning of it", max_tokens=3)
    bench.step()
    # Started, but not part of the next step: the other one takes the whole budget.
    bench.add(b"another", max_tokens=1, tenant="u")
    second = bench.add(b"shared beginning of it, too", max_tokens=3)
    while not second.running:
        bench.step()
    bench.runner.fail_next = True
    step = bench.plan()
    assert step is not None
    members = bench.scheduler.flight.members if bench.scheduler.flight else {}
    bench.land(step)
    bench.drain()
    assert first.id in members or second.id in members
    for sequence in (first, second):
        if sequence.error is None:
            assert bench.drawn[sequence.id] == bench.expected(sequence)


@pytest.mark.parametrize(
    ("lengths", "wanted", "room"),
    [((10,), 100, 23), ((31,), 5, 2), ((32,), 5, 1), ((33,), 5, 0), ((8, 8), 100, 9), ((16, 17), 5, 0), ((1,), 4, 4)],
)
def test_room_is_what_the_blocks_hold(lengths: tuple[int, ...], wanted: int, room: int) -> None:
    assert Bench(num_blocks=8, block_size=4).scheduler.room(lengths, wanted) == room


@dataclass
class Arrival:
    prompts: tuple[bytes, ...]
    tenant: str
    adapters: tuple[str | None, ...]
    priority: Priority
    max_tokens: int
    targets: bytes
    at: int
    leaves: int | None
    deadline: float | None
    mixing: Mixing = Mixing.ARITHMETIC
    sequence: Sequence | None = field(default=None)


_TEXT = b"aabacaabadaabacaabae"


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    width = draw(st.sampled_from([1, 1, 1, 2, 3]))
    prompts = tuple(_TEXT[: draw(st.integers(1, len(_TEXT)))] + draw(st.binary(max_size=6)) for _ in range(width))
    scored = width == 1 and draw(st.booleans())
    return Arrival(
        prompts=prompts,
        tenant=draw(st.sampled_from("tuv")),
        adapters=tuple(draw(st.sampled_from([None, None, "x", "y"])) for _ in range(width)),
        priority=draw(st.sampled_from(Priority)),
        max_tokens=draw(st.integers(1, 12)),
        targets=draw(st.binary(min_size=1, max_size=9)) if scored else b"",
        at=draw(st.integers(0, 30)),
        leaves=draw(st.none() | st.integers(0, 40)),
        deadline=draw(st.none() | st.none() | st.floats(1, 60)),
    )


@settings(max_examples=300)
@given(
    plan=st.lists(arrivals(), min_size=1, max_size=14),
    num_blocks=st.integers(6, 24),
    block_size=st.integers(1, 4),
    sharing=st.booleans(),
    max_running=st.integers(1, 5),
    max_prefill_tokens=st.integers(1, 20),
    beside=st.integers(1, 20),
    failing=st.sets(st.integers(0, 60), max_size=2),
)
def test_whatever_comes_every_sequence_ends_once_with_the_output_it_has_alone(
    plan: list[Arrival],
    num_blocks: int,
    block_size: int,
    sharing: bool,
    max_running: int,
    max_prefill_tokens: int,
    beside: int,
    failing: set[int],
) -> None:
    bench = Bench(
        num_blocks=num_blocks,
        block_size=block_size,
        sharing=sharing,
        beside=beside,
        max_running=max_running,
        max_prefill_tokens=max_prefill_tokens,
    )
    work = 0
    for tick in range(100_000):
        for arrival in (a for a in plan if a.at == tick):
            work += _arrive(bench, arrival)
        for arrival in (a for a in plan if a.leaves == tick and a.leaves % 2 == 0):
            _leave(bench, arrival)
        bench.scheduler.expire(bench.now)
        step = bench.plan()
        for arrival in (a for a in plan if a.leaves == tick and a.leaves % 2 == 1):
            _leave(bench, arrival)
        if step is not None:
            bench.runner.fail_next = tick in failing
            bench.land(step)
        elif tick > 41:
            break
        # Nothing starves: each step brings a prompt or a sequence on, and no one starts over for ever.
        assert tick < 60 + 20 * work
    bench.drain(most=1)
    assert sorted(s.id for s in bench.ended) == [a.sequence.id for a in _in_order(plan)]
    for arrival in _in_order(plan):
        _check_outcome(bench, arrival)


def _arrive(bench: Bench, arrival: Arrival) -> int:
    lengths = [len(prompt) + max(len(arrival.targets) - 1, 0) for prompt in arrival.prompts]
    room = bench.scheduler.room(lengths, 1 if arrival.targets else arrival.max_tokens)
    if not room:
        return 0
    arrival.sequence = bench.add(
        *arrival.prompts,
        tenant=arrival.tenant,
        adapters=arrival.adapters,
        priority=arrival.priority,
        max_tokens=room,
        targets=arrival.targets,
        deadline=arrival.deadline,
        weights=tuple(1.0 + index for index in range(len(arrival.prompts))),
    )
    return sum(lengths) + room


def _leave(bench: Bench, arrival: Arrival) -> None:
    if arrival.sequence is not None:
        bench.scheduler.cancel(arrival.sequence, Cancelled("left"), now=bench.now)


def _in_order(plan: list[Arrival]) -> list[Arrival]:
    return sorted((a for a in plan if a.sequence is not None), key=lambda a: a.sequence.id if a.sequence else 0)


def _check_outcome(bench: Bench, arrival: Arrival) -> None:
    sequence = arrival.sequence
    assert sequence is not None
    if sequence.targets:
        scores = score_alone(arrival.prompts[0], sequence.targets, adapter=arrival.adapters[0])
        assert sequence.scores == scores[: len(sequence.scores)]
        assert sequence.error is not None or len(sequence.scores) == len(scores)
        return
    cached = sum(stream.cached for stream in sequence.streams)
    prompts = sum(stream.num_prompt for stream in sequence.streams)
    assert cached <= prompts
    if sequence.error is None and not sequence.preemptions:
        assert cached + sequence.computed == prompts + (sequence.num_tokens - 1) * sequence.width
    wanted = bench.expected(sequence)
    drawn = bench.drawn.get(sequence.id, [])
    assert drawn == wanted[: len(drawn)]
    assert sequence.error is not None or len(drawn) == len(wanted)
