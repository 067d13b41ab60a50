"""Which blocks a sequence takes over instead of computing them, and which it never may."""

import pytest

from tests.fakes.generator import END
from tests.fakes.generator_scheduler import Bench


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


def test_the_streams_of_a_blend_share_a_prefix_too() -> None:
    bench = Bench()
    blend = bench.add(b"the same beginning, then this", b"the same beginning, then that thing", weights=(0.5, 0.5))
    bench.drain()
    assert [stream.cached for stream in blend.streams] == [0, 24]
    assert bench.drawn[blend.id] == bench.expected(blend)
