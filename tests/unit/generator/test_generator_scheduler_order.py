"""Who starts first, and who gives way."""

import pytest

from services.generator.domain import Priority
from tests.fakes.generator_scheduler import Bench


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
