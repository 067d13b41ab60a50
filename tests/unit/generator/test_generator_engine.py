"""What callers of the engine get, on a toy model."""

import asyncio

from services.generator.domain import Delta, Finished, FinishReason, Started
from tests.fakes.generator import END, ToyRunner, alone
from tests.fakes.generator_engine import Pins, ask, running, said, text_of, tokens_of


async def test_started_comes_first_and_finished_last_with_a_delta_for_each_token() -> None:
    async with running(said("né")) as bench:
        events = [event async for event in bench.engine.generate(ask("hello"))]
    assert isinstance(events[0], Started)
    assert events[0].input_tokens == 5
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [delta.text for delta in deltas] == ["n", "", "é", ""]
    assert [delta.token.token_id for delta in deltas] == [*"né".encode(), END]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.output_tokens) == (FinishReason.STOP, 4)
    assert (finished.usage.input_tokens, finished.usage.computed_tokens) == (5, 5 + 3)
    assert (finished.confidence.mean_logprob, finished.confidence.max_entropy) == (-0.5, 1.0)
    assert (finished.confidence.min_margin, len(finished.streams)) == (0.25, 1)


async def test_max_tokens_ends_a_sequence_and_sends_what_was_held_for_a_stop_string() -> None:
    async with running(said("abcabc")) as bench:
        text, finished = await text_of(bench.engine, ask(max_tokens=4, stop=("abd",)))
    assert (text, finished.reason, finished.usage.output_tokens) == ("abca", FinishReason.LENGTH, 4)


async def test_a_stop_string_ends_a_sequence_at_the_token_that_completes_it() -> None:
    async with running(said("one. two")) as bench:
        text, finished = await text_of(bench.engine, ask(stop=(". ",)))
    assert (text, finished.reason, finished.usage.output_tokens) == ("one", FinishReason.STOP, 5)
    assert len(bench.runner.steps) == 5


async def test_callers_share_batches_and_get_their_own_output() -> None:
    async with running(max_running=8) as bench:
        requests = [ask(f"prompt number {n}", max_tokens=12, temperature=1.0, seed=n) for n in range(20)]
        outputs = await asyncio.gather(*(tokens_of(bench.engine, request) for request in requests))
    for request, output in zip(requests, outputs, strict=True):
        prompt = str(request.streams[0].prompt).encode()
        assert output == [choice.token_id for choice in alone([prompt], request.sampling)]
    assert max(len(step.works) for step in bench.runner.steps) == 8


async def test_a_blend_names_its_streams_weights_and_adapters() -> None:
    pins = Pins()
    async with running() as bench:
        request = ask("first", "second prompt", pins=(pins.pin("law"), None), max_tokens=6, seed=4)
        events = [event async for event in bench.engine.generate(request)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [(cost.lineage.adapter, cost.weight, cost.input_tokens) for cost in finished.streams] == [
        ("law", 0.5, 5),
        ("", 0.5, 13),
    ]
    key = request.pins[0].adapter.key
    wanted = alone([b"first", b"second prompt"], request.sampling, adapters=(key, None), weights=(0.5, 0.5))
    assert [event.token.token_id for event in events if isinstance(event, Delta)] == [c.token_id for c in wanted]
    assert pins.released == ["law"]
    assert bench.value("blended_rows_total") == 2 * len(wanted)


async def test_alternatives_come_with_their_text_when_asked_for() -> None:
    async with running() as bench:
        events = [event async for event in bench.engine.generate(ask(max_tokens=1, num_alternatives=2))]
    delta = events[1]
    assert isinstance(delta, Delta)
    assert [(alternative.token_id, alternative.text) for alternative in delta.token.alternatives] == [
        (97, "a"),
        (98, "b"),
    ]


async def test_a_seed_is_drawn_where_none_is_given() -> None:
    async with running() as bench:
        for _ in range(2):
            await tokens_of(bench.engine, ask(max_tokens=1, temperature=1.0))
        await tokens_of(bench.engine, ask(max_tokens=1, temperature=1.0, seed=7))
    seeds = [step.draws[0].sampling.seed for step in bench.runner.steps]
    assert len(set(seeds)) == 3
    assert seeds[2] == 7


async def test_a_reader_that_is_slow_does_not_hold_up_others() -> None:
    async with running(said("x" * 50)) as bench:
        slow = bench.engine.generate(ask("slow", max_tokens=40))
        await anext(slow)
        text, _ = await text_of(bench.engine, ask("quick", max_tokens=20))
        assert len(text) == 20
        rest = [event async for event in slow]
    assert len(rest) == 41


async def test_output_is_cut_to_the_context_and_to_the_blocks() -> None:
    async with running(said("x" * 200)) as bench:
        _, finished = await text_of(bench.engine, ask("x" * 99, max_tokens=50))
        assert (finished.reason, finished.usage.output_tokens) == (FinishReason.LENGTH, 1)
    async with running(ToyRunner(num_blocks=5, reply=lambda prompt: "x" * 200)) as bench:
        _, finished = await text_of(bench.engine, ask("x" * 10, max_tokens=50))
        assert (finished.reason, finished.usage.output_tokens) == (FinishReason.LENGTH, 11)


async def test_without_entropy_there_is_none_in_tokens_and_confidence() -> None:
    async with running(features=frozenset()) as bench:
        events = [event async for event in bench.engine.generate(ask(max_tokens=2))]
    assert isinstance(events[1], Delta)
    assert (events[1].token.entropy, events[1].token.margin) == (None, None)
    assert isinstance(events[-1], Finished)
    assert events[-1].confidence.mean_entropy is None
