"""Prefixes: keys and values that were learnt stand before the prompt, as peft puts them there."""

import asyncio
import random
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.generator.backend.checkpoint import Checkpoint
from services.generator.backend.llama import Llama
from services.generator.backend.runner import PagedRunner
from services.generator.backend.weights import weights_sha256
from services.generator.domain.steps import NotLoaded
from tests.fakes.adapter_versions import publish
from tests.fakes.generator_adapters import unsigned
from tests.fakes.generator_driver import Chaos, Job
from tests.fakes.generator_hosting import asking, publish_random, running, tiny
from tests.fakes.generator_model import write_adapter, write_model, write_prefix

TIE = 1e-4
FORMS = ("short", "long", "lora")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft uses the old name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prefixes")
    write_model(root / "tiny")
    write_prefix(root / "halden" / "short", seed=1, num_virtual=3)
    write_prefix(root / "halden" / "long", seed=2, num_virtual=21)
    write_adapter(root / "halden" / "lora", seed=3)
    return root


def runner_of(folder: Path, *, precision: str = "fp32", block_size: int = 4) -> PagedRunner:
    torch.set_num_threads(1)
    llama = Llama(Checkpoint(folder / "tiny"), precision=precision, device=torch.device("cpu"))
    return PagedRunner(llama, num_blocks=256, block_size=block_size)


@cache
def reference(folder: Path, name: str | None) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(folder / "tiny", dtype=torch.float32).eval()
    return base if name is None else PeftModel.from_pretrained(base, folder / "halden" / name).eval()


def check(job: Job, folder: Path, name: str | None, *, off: float = 1e-3) -> None:
    """Every token is the likeliest after those before it, under peft's model."""
    tokens = [token for token in job.tokens if token >= 0]
    with torch.inference_mode():
        logits = reference(folder, name)(torch.tensor([tokens])).logits[0]
    for choice, row in zip(job.choices, logits[-1 - job.num_tokens : -1], strict=True):
        assert float(row.max() - row[choice.token_id]) < TIE
        assert choice.logprob == pytest.approx(float(row.log_softmax(-1)[choice.token_id]), abs=off)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_whatever_the_schedule_a_prefix_stands_before_its_prompts_as_peft_puts_it(
    folder: Path, block_size: int
) -> None:
    runner = runner_of(folder, block_size=block_size)
    adapters = {name: unsigned(folder / "halden" / name, runner.adapters.shapes()) for name in FORMS}
    for adapter in adapters.values():
        runner.adapters.load(adapter)
    shared = 0
    for seed in range(12):
        chance = random.Random(seed)
        head = [chance.randrange(200) for _ in range(chance.randrange(20))]
        jobs: list[tuple[Job, str | None]] = []
        for _ in range(chance.randrange(2, 9)):
            name = chance.choice([None, *FORMS])
            virtual = range(-1, -1 - (adapters[name].num_virtual if name else 0), -1)
            prompt = [*virtual, *head, *(chance.randrange(200) for _ in range(chance.randrange(1, 30)))]
            key = adapters[name].key if name else None
            job = Job(prompt=prompt, num_tokens=chance.randrange(1, 10), adapter=key, arrives=chance.randrange(8))
            jobs.append((job, name))
        chaos = Chaos(runner, seed=seed)
        chaos.run([job for job, _ in jobs])
        shared += chaos.num_shared
        for job, name in jobs:
            check(job, folder, name)
    assert shared > 10


def test_a_prefix_is_not_that_of_another(folder: Path) -> None:
    runner = runner_of(folder)
    outputs = []
    for name in ("short", "long"):
        adapter = unsigned(folder / "halden" / name, runner.adapters.shapes())
        runner.adapters.load(adapter)
        prompt = [*range(-1, -1 - adapter.num_virtual, -1), 5, 6, 7]
        job = Job(prompt=prompt, num_tokens=8, adapter=adapter.key)
        Chaos(runner, seed=0).run([job])
        outputs.append(job.output)
    assert outputs[0] != outputs[1]


def test_a_prefix_that_was_unloaded_computes_nothing(folder: Path) -> None:
    runner = runner_of(folder)
    adapter = unsigned(folder / "halden" / "short", runner.adapters.shapes())
    runner.adapters.load(adapter)
    runner.adapters.unload(adapter.key)
    with pytest.raises(NotLoaded):
        Chaos(runner, seed=0).run([Job(prompt=[-1, -2, -3, 5], num_tokens=1, adapter=adapter.key)])


async def test_a_signed_prefix_is_served_beside_others_and_its_positions_are_no_input(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    base = weights_sha256(folder / "tiny")
    for name in ("short", "long"):
        made = folder / "halden" / name
        publish(tmp_path / "adapters", made, tenant="halden", name=name, base_sha256=base, method="prefix")
    publish_random(tmp_path, "halden/lora", seed=4)
    async with running(tiny(tmp_path)) as service:
        asked = [asking(adapter=name) for name in ("", "short", "long", "lora", "short")]
        told = await asyncio.gather(*(service.generate(request) for request in asked))
        again = await service.generate(asking(adapter="long"))
    assert len({answer.text for answer in told}) == 4
    assert told[1].text == told[4].text
    assert again.text == told[2].text
    assert {answer.finished.usage.input_tokens for answer in told} == {told[0].finished.usage.input_tokens}
    assert again.finished.usage.computed_tokens < told[2].finished.usage.computed_tokens
    assert [answer.finished.lineage.adapter for answer in told] == ["", "short", "long", "lora", "short"]
