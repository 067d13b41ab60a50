"""The paged runner against transformers and peft: whatever the steps look like, the tokens are the same."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from services.generator.backend import lora
from services.generator.backend.checkpoint import Checkpoint
from services.generator.backend.llama import Llama
from services.generator.backend.runner import PagedRunner
from services.generator.domain import Draw, Mixing, NotFinite, NotLoaded, Sampling, Step, StepResult, Work
from tandem.adapters import AdapterRefused, Refusal
from tests.fakes.generator_adapters import unsigned
from tests.fakes.generator_driver import Chaos, Job
from tests.fakes.generator_model import write_adapter, write_model, write_relative

TIE = 1e-4
"""Two best logits that are closer than this may change places by rounding; none of the runs below meets such a pair."""
ADAPTERS = ("halden/one", "halden/two", "halden/three")
SCHEDULES = 240
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft uses the old name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runner")
    write_model(root / "tiny")
    for seed, name in enumerate(ADAPTERS, 1):
        write_adapter(root / "adapters" / name, seed=seed, rank=seed)
    return root


def paged(model: Path, *, precision: str = "fp32", num_blocks: int = 256, block_size: int = 4) -> PagedRunner:
    torch.set_num_threads(1)
    llama = Llama(Checkpoint(model), precision=precision, device=torch.device("cpu"))
    return PagedRunner(llama, num_blocks=num_blocks, block_size=block_size)


def with_adapters(runner: PagedRunner, folder: Path) -> dict[str, str]:
    """Loads all adapters; returns their keys by name."""
    loaded = {name: unsigned(folder / "adapters" / name, runner.adapters.shapes()) for name in ADAPTERS}
    for adapter in loaded.values():
        runner.adapters.load(adapter)
    return {name: adapter.key for name, adapter in loaded.items()}


@cache
def reference(model: Path, adapter: Path | None = None) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return base if adapter is None else PeftModel.from_pretrained(base, adapter).eval()


def reference_logits(tokens: Sequence[int], model: Path, adapter: Path | None = None) -> Tensor:
    """The logits after each token, (T, V)."""
    with torch.inference_mode():
        return reference(model, adapter)(torch.tensor([tokens])).logits[0]


def generated(prompt: Sequence[int], num_tokens: int, model: Path, adapter: Path | None = None) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([prompt])
    out = reference(model, adapter).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(out[0, len(prompt) :].tolist())


def check(job: Job, model: Path, adapter: Path | None = None) -> int:
    """Holds a job against the reference; returns at how many tokens rounding decided.

    If every token is the likeliest after those before it, the output is the greedy one.
    """
    logits = reference_logits(job.tokens, model, adapter)[len(job.prompt) - 1 : -1]
    ties = 0
    for choice, row in zip(job.choices, logits, strict=True):
        if choice.token_id != int(row.argmax()):
            assert float(row.max() - row[choice.token_id]) < TIE
            ties += 1
        assert choice.logprob == pytest.approx(float(row.log_softmax(-1)[choice.token_id]), abs=1e-3)
    return ties


def jobs_of(chance: random.Random, adapters: Sequence[str | None], vocabulary: int = 200) -> list[Job]:
    """Jobs with prompts that partly begin alike."""
    heads = [[chance.randrange(vocabulary) for _ in range(chance.randrange(30))] for _ in range(2)]
    return [
        Job(
            prompt=chance.choice(heads) + [chance.randrange(vocabulary) for _ in range(chance.randrange(1, 40))],
            num_tokens=chance.randrange(1, 14),
            adapter=chance.choice(adapters),
            arrives=chance.randrange(12),
        )
        for _ in range(chance.randrange(1, 9))
    ]


@pytest.mark.parametrize("part", range(8))
def test_whatever_the_schedule_the_greedy_tokens_are_those_of_transformers_and_peft(
    folder: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By small plain products, by packed ones, and as it comes.
    monkeypatch.setattr(lora, "_SMALL", {0: 0, 1: 10**9}.get(part % 4, 40))
    runners = {size: paged(folder / "tiny", block_size=size) for size in (1, 4, 16)}
    keys = {size: with_adapters(runner, folder) for size, runner in runners.items()}
    shared = preempted = 0
    for seed in range(part, SCHEDULES, 8):
        chance = random.Random(seed)
        size = chance.choice((1, 4, 16))
        names = {None: None, **{keys[size][name]: folder / "adapters" / name for name in ADAPTERS}}
        jobs = jobs_of(chance, list(names)[: chance.randrange(1, 5)])
        chaos = Chaos(runners[size], seed=seed)
        chaos.run(jobs)
        assert sum(check(job, folder / "tiny", names[job.adapter]) for job in jobs) == 0
        shared += chaos.num_shared
        preempted += chaos.num_preempted
        if seed % 16 == part:
            job = jobs[0]
            assert job.output == generated(job.prompt, job.num_tokens, folder / "tiny", names[job.adapter])
    assert shared > 20
    assert preempted > 20


@pytest.mark.parametrize("kind", ["llama-tied", "llama-biased", "llama3-rope", "qwen2", "qwen3"])
def test_its_relatives_are_computed_as_transformers_does(tmp_path: Path, kind: str) -> None:
    model = write_relative(tmp_path / kind, kind)
    runner = paged(model)
    for seed in range(8):
        jobs = jobs_of(random.Random(seed), [None], vocabulary=97)
        jobs.append(Job(prompt=[seed] * 120, num_tokens=4))
        Chaos(runner, seed=seed).run(jobs)
        assert sum(check(job, model) for job in jobs) == 0
        assert jobs[-1].output == generated(jobs[-1].prompt, 4, model)


def test_scores_are_the_log_softmax_of_the_logits(folder: Path) -> None:
    runner = paged(folder / "tiny")
    key = with_adapters(runner, folder)["halden/two"]
    chance = random.Random(3)
    tokens = [chance.randrange(200) for _ in range(150)]
    adapter = folder / "adapters" / "halden/two"
    wanted = reference_logits(tokens, folder / "tiny", adapter).log_softmax(-1)
    first = Work(stream=1, tokens=tokens[:60], start=0, blocks=range(40), adapter=key, targets=tokens[41:61])
    rest = Work(stream=1, tokens=tokens[60:149], start=60, blocks=range(40), adapter=key, targets=tokens[61:150])
    other = Work(stream=2, tokens=[5, 6], start=0, blocks=[50])
    for work, at in ((first, 40), (rest, 60)):
        found = runner.run(Step((other, work))).scores
        assert set(found) == {1}
        for place, (got, target) in enumerate(zip(found[1], work.targets, strict=True), at):
            row = wanted[place]
            assert got.logprob == pytest.approx(float(row[target]), abs=1e-3)
            assert got.entropy == pytest.approx(float(-(row.exp() * row).sum()), abs=1e-3)
            assert got.greedy == (int(row.argmax()) == target)


@pytest.mark.parametrize("mixing", list(Mixing))
def test_a_blend_draws_from_what_its_prompts_say_together(folder: Path, mixing: Mixing) -> None:
    runner = paged(folder / "tiny")
    key = with_adapters(runner, folder)["halden/one"]
    one, two, mate = [3, 14, 15, 92, 65], [27, 18, 28], [9] * 11
    works = (
        Work(stream=1, tokens=mate, start=0, blocks=range(3)),
        Work(stream=2, tokens=two, start=0, blocks=[10], adapter=key),
        Work(stream=3, tokens=one, start=0, blocks=[20, 21]),
    )
    blend = Draw(
        sequence=5, works=(2, 1), weights=(0.3, 0.7), mixing=mixing, sampling=Sampling(), history=one, position=0
    )
    alone = Draw(sequence=4, works=(0,), sampling=Sampling(), history=mate, position=0)
    found = runner.run(Step(works, (blend, alone))).choices
    first = reference_logits(one, folder / "tiny")[-1].log_softmax(-1)
    second = reference_logits(two, folder / "tiny", folder / "adapters" / "halden/one")[-1].log_softmax(-1)
    if mixing is Mixing.ARITHMETIC:
        wanted = (0.3 * first.exp() + 0.7 * second.exp()).log()
    else:
        wanted = (0.3 * first + 0.7 * second).log_softmax(-1)
    assert found[5].token_id == int(wanted.argmax())
    assert found[5].logprob == pytest.approx(float(wanted.max()), abs=1e-3)
    assert found[4].token_id == int(reference_logits(mate, folder / "tiny")[-1].argmax())


def alone_and_together(runner: PagedRunner) -> tuple[list[StepResult], StepResult]:
    """The same works one by one and in one step; their blocks are apart."""
    chance = random.Random(1)
    works = [
        Work(stream=i, tokens=[chance.randrange(200) for _ in range(5 + i % 3)], start=0, blocks=[2 * i, 2 * i + 1])
        for i in range(12)
    ]
    draws = [Draw(sequence=i, works=(i,), sampling=Sampling(), history=(), position=0) for i in range(12)]
    single = [
        runner.run(Step((work,), (Draw(sequence=i, works=(0,), sampling=Sampling(), history=(), position=0),)))
        for i, work in enumerate(works)
    ]
    return single, runner.run(Step(tuple(works), tuple(draws)))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1), ("int8", 0.1)])
def test_a_row_hardly_depends_on_its_mates(folder: Path, precision: str, tolerance: float) -> None:
    single, together = alone_and_together(paged(folder / "tiny", precision=precision))
    for i, result in enumerate(single):
        assert result.choices[i].logprob == pytest.approx(together.choices[i].logprob, abs=tolerance)
        assert result.choices[i].token_id == together.choices[i].token_id or precision != "fp32"


def test_what_a_broken_sequence_leaves_in_its_blocks_harms_nobody(folder: Path) -> None:
    runner = paged(folder / "tiny", num_blocks=4, block_size=16)
    draw = Draw(sequence=0, works=(0,), sampling=Sampling(), history=(), position=0)

    def choice(adapter: str | None) -> int:
        # Two works of one shape: their blocks are read whole, filled or not.
        works = [Work(stream=i, tokens=[7, 8, 9], start=0, blocks=[i], adapter=adapter) for i in range(2)]
        return runner.run(Step(tuple(works), (draw,))).choices[0].token_id

    healthy = choice(None)
    runner._pool._pool.fill_(torch.nan)
    assert choice(None) == healthy


@pytest.mark.parametrize("small", [0, 10**9])
def test_an_adapter_that_overflows_is_told_and_harms_no_mate(
    folder: Path, tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "_SMALL", small)
    runner = paged(folder / "tiny")
    place = write_adapter(tmp_path / "halden" / "huge", seed=1, scale=1e38)
    adapter = unsigned(place, runner.adapters.shapes())
    runner.adapters.load(adapter)
    works = [
        Work(stream=0, tokens=[1, 2], start=0, blocks=[0]),
        Work(stream=1, tokens=[1, 2], start=0, blocks=[1], adapter=adapter.key),
    ]
    draws = [Draw(sequence=i, works=(i,), sampling=Sampling(), history=(), position=0) for i in range(2)]
    with pytest.raises(NotFinite) as caught:
        runner.run(Step(tuple(works), tuple(draws)))
    assert caught.value.works == (1,)
    assert runner.run(Step((works[0],), (draws[0],))).choices.keys() == {0}


def test_an_adapter_changed_after_it_was_verified_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    runner = paged(folder / "tiny")
    place = write_adapter(tmp_path / "halden" / "changed", seed=3)
    adapter = unsigned(place, runner.adapters.shapes())
    data = bytearray((place / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "adapter_model.safetensors").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="changed after"):
        runner.adapters.load(adapter)


@pytest.mark.parametrize(
    "data", [b"", b"\x02\0\0\0\0\0\0\0{]", b'\x22\0\0\0\0\0\0\0{"__metadata__":{"format":null}}   ']
)
def test_weights_that_safetensors_refuses_are_refused(folder: Path, data: bytes) -> None:
    runner = paged(folder / "tiny")
    adapter = unsigned(folder / "adapters" / "halden/one", runner.adapters.shapes())
    harmed = replace(adapter, sha256=hashlib.sha256(data).hexdigest(), read=lambda: data)
    with pytest.raises(AdapterRefused) as caught:
        runner.adapters.load(harmed)
    assert caught.value.code is Refusal.HEADER_INVALID


def test_an_unloaded_adapter_is_gone_and_can_come_back(folder: Path) -> None:
    runner = paged(folder / "tiny")
    adapter = unsigned(folder / "adapters" / "halden/one", runner.adapters.shapes())
    work = Work(stream=0, tokens=[5, 6, 7], start=0, blocks=[0], adapter=adapter.key)
    step = Step((work,), (Draw(sequence=0, works=(0,), sampling=Sampling(), history=(), position=0),))
    runner.adapters.load(adapter)
    before = runner.run(step)
    runner.adapters.unload(adapter.key)
    beside = Work(stream=1, tokens=[5, 6], start=0, blocks=[1])
    with pytest.raises(NotLoaded) as caught:
        runner.run(Step((beside, *step.works)))
    assert caught.value.works == (1,)
    runner.adapters.load(adapter)
    assert runner.run(step) == before


def test_adapters_that_take_turns_are_laid_together_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = paged(folder / "tiny")
    keys = list(with_adapters(runner, folder).values())[:2]
    made = []
    laid = lora.make_linear

    def counted(weight: torch.Tensor, *, precision: str) -> lora.Linear:
        made.append(weight)
        return laid(weight, precision=precision)

    monkeypatch.setattr(lora, "make_linear", counted)
    for key in keys:
        runner.adapters.active([key], [1])
    once = len(made)
    for key in (*keys, *keys):
        runner.adapters.active([key], [1])
    assert len(made) == once > 0
    runner.adapters.unload(keys[0])
    with pytest.raises(lora.MissingAdapters):
        runner.adapters.active([keys[0]], [1])
    runner.adapters.active([keys[1]], [1])
    assert len(made) == once
