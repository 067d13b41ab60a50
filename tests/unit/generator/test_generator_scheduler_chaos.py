"""What the scheduler holds to, whatever comes, leaves and fails."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.domain import Mixing, Priority
from services.generator.engine.sequence import Sequence
from tandem.errors import Cancelled
from tests.fakes.generator import score_alone
from tests.fakes.generator_scheduler import Bench


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
