"""Sequences that end early: cancelled, past their deadline, or in a step that failed."""

from tandem.errors import Cancelled, DeadlineExceeded, Internal
from tests.fakes.generator_scheduler import Bench


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
