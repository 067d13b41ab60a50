"""The spans and metrics of the engine."""

import asyncio

from services.generator.domain import ScoreInput, ScoreItem
from services.generator.metrics import SPANS
from tests.fakes.generator import ToyRunner
from tests.fakes.generator_engine import ask, running, said, text_of


async def test_a_call_opens_the_declared_spans_and_puts_no_text_in_them() -> None:
    async with running(said("a secret")) as bench:
        await text_of(bench.engine, ask("another secret"))
        items = (ScoreItem(prompt="a third secret", continuation="secret"),)
        await bench.engine.score(ScoreInput(items=items, tenant="t"))
    spans = bench.spans.get_finished_spans()
    assert {span.name for span in spans} == set(SPANS)
    sequence = next(span for span in spans if span.name == "generator.sequence")
    assert sequence.attributes is not None
    assert sequence.attributes["gen_ai.usage.output_tokens"] == 9
    assert "secret" not in str([span.to_json() for span in spans])


async def test_what_happens_is_counted() -> None:
    runner = ToyRunner(num_blocks=16, reply=lambda prompt: "x" * 30)
    async with running(runner, max_running=4, max_prefill_tokens=16) as bench:
        await asyncio.gather(*(text_of(bench.engine, ask(f"prompt {n}", tenant=f"t{n % 2}")) for n in range(4)))
    assert bench.value("decode_tokens_total") == 4 * 31
    assert bench.value("sequences_total", reason="stop") == 4
    assert bench.value("preemptions_total") > 0
    assert bench.value("prefill_tokens_total") > 4 * 8
    assert bench.value("prefix_lookup_tokens_total") >= bench.value("prefix_hit_tokens_total") > 0
    assert bench.value("tenant_tokens_total", tenant="t0", kind="input") == 16
    assert bench.value("tenant_tokens_total", tenant="t1", kind="output") == 62
    assert sum(bench.value("kv_blocks", state=state) for state in ("used", "cached", "free")) == 16
    kinds = [bench.value("step_seconds_count", kind=kind) for kind in ("prefill", "decode", "mixed")]
    assert sum(kinds) == bench.value("batch_rows_count") == len(runner.steps)
    for name in ("queue_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds"):
        assert bench.value(f"{name}_count") == 4
