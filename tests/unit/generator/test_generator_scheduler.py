"""What the scheduler puts into a step: chunks of prompts, blends, scores, and what fits."""

import pytest

from services.generator.domain import FinishReason
from tests.fakes.generator import score_alone
from tests.fakes.generator_scheduler import Bench


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


@pytest.mark.parametrize(
    ("lengths", "wanted", "room"),
    [((10,), 100, 23), ((31,), 5, 2), ((32,), 5, 1), ((33,), 5, 0), ((8, 8), 100, 9), ((16, 17), 5, 0), ((1,), 4, 4)],
)
def test_room_is_what_the_blocks_hold(lengths: tuple[int, ...], wanted: int, room: int) -> None:
    assert Bench(num_blocks=8, block_size=4).scheduler.room(lengths, wanted) == room
