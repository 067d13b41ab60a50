"""The runner for any causal language model, and the choice between it and the paged one."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from services.generator.backend import loading
from services.generator.backend.transformers_runner import TransformersRunner
from services.generator.config import GeneratorConfig
from services.generator.domain import Draw, NotLoaded, Sampling, Step, Work
from tandem.errors import ConfigError
from tests.fakes.generator_adapters import unsigned
from tests.fakes.generator_driver import Chaos, Job
from tests.fakes.generator_model import CONTEXT, write_adapter, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("transformers")
    write_model(root / "tiny")
    write_adapter(root / "adapters" / "halden" / "one", seed=1)
    write_model(root / "other")  # for its tokenizer
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": 259}
    GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3)).save_pretrained(root / "other")
    return root


def config(model: Path, **values: object) -> GeneratorConfig:
    settings = {"precision": "fp32", "threads": 1, "kv_cache_tokens": 1024, "kv_block_tokens": 4} | values
    return GeneratorConfig(model=str(model), **settings)  # type: ignore[arg-type]


def greedy_by_transformers(job: Job, model: Path) -> list[int]:
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = torch.tensor([job.prompt])
    out = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=job.num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(out[0, len(job.prompt) :].tolist())


def some_jobs(adapter: str | None = None) -> list[Job]:
    chance = random.Random(5)
    return [
        Job(
            prompt=[chance.randrange(200) for _ in range(chance.randrange(1, 30))],
            num_tokens=8,
            adapter=chance.choice((None, adapter)),
            arrives=chance.randrange(6),
        )
        for _ in range(6)
    ]


def test_an_architecture_that_the_paged_runner_does_not_know_is_run_by_transformers(folder: Path) -> None:
    loaded = loading.load(config(folder / "other"))
    assert (loaded.kind, loaded.architecture) == ("transformers", "gpt2")
    assert not loaded.runner.shares_blocks
    assert loaded.model.vocabulary_size == 259
    assert loaded.model.max_context_tokens == CONTEXT
    jobs = some_jobs()
    Chaos(loaded.runner, seed=1, share=False).run(jobs)
    for job in jobs:
        assert job.output == greedy_by_transformers(job, folder / "other")


def test_both_runners_say_the_same_with_and_without_an_adapter(folder: Path) -> None:
    outputs = []
    for backend in ("torch", "transformers"):
        loaded = loading.load(config(folder / "tiny", backend=backend))
        assert loaded.kind == backend
        adapter = unsigned(folder / "adapters" / "halden" / "one", loaded.shapes)
        loaded.adapters.load(adapter)
        jobs = some_jobs(adapter.key)
        Chaos(loaded.runner, seed=2, share=loaded.runner.shares_blocks).run(jobs)
        outputs.append([job.output for job in jobs])
        work = Work(stream=999, tokens=[1, 2, 3, 4], start=0, blocks=[0], adapter=adapter.key, targets=[3, 4, 5])
        scored = loaded.runner.run(Step((work,))).scores[0]
        outputs[-1].append([round(score.logprob, 3) for score in scored])
        loaded.adapters.unload(adapter.key)
        with pytest.raises(NotLoaded):
            loaded.runner.run(Step((work,)))
    assert outputs[0] == outputs[1]


def test_a_stream_that_was_released_starts_again_from_its_first_token(folder: Path) -> None:
    runner = loading.load(config(folder / "tiny", backend="transformers")).runner
    assert isinstance(runner, TransformersRunner)
    draw = Draw(sequence=0, works=(0,), sampling=Sampling(), history=(), position=0)
    whole = runner.run(Step((Work(stream=1, tokens=[5, 6, 7], start=0, blocks=[0]),), (draw,)))
    runner.release([1, 2])
    with pytest.raises(KeyError):
        runner.run(Step((Work(stream=1, tokens=[7], start=2, blocks=[0]),), (draw,)))
    runner.run(Step((Work(stream=1, tokens=[5, 6], start=0, blocks=[0]),)))
    last = runner.run(Step((Work(stream=1, tokens=[7], start=2, blocks=[0]),), (draw,)))
    assert last.choices[0].token_id == whole.choices[0].token_id


def test_what_is_loaded_is_told(folder: Path) -> None:
    loaded = loading.load(config(folder / "tiny"))
    assert (loaded.kind, loaded.architecture, loaded.model.precision) == ("torch", "llama", "float32")
    assert loaded.model.vocabulary_size == 259
    assert loaded.runner.num_blocks == 256
    assert loaded.shapes["model.layers.1.mlp.down_proj"] == (32, 48)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        ("other", {"backend": "torch"}, "not of the Llama family"),
        ("other", {"precision": "int8"}, "not of the Llama family"),
        ("tiny", {"precision": "int8", "backend": "transformers"}, "needs the backend torch"),
        ("tiny", {"precision": "int8", "device": "cuda"}, "GPU"),
        ("tiny", {"kv_cache_tokens": 64, "kv_block_tokens": 128}, "smaller than one block"),
        ("nowhere", {}, "no model folder"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(
    folder: Path, model: str, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        loading.load(config(folder / model, **values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "rotary"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "mistral", "sliding_window": 32}, "window"),
        ({"num_hidden_layers": 1}, "not known"),
        ({"num_hidden_layers": 3}, "lack"),
        ({"intermediate_size": 40}, "floating-point"),
        ({"num_key_value_heads": 3}, "evenly"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_a_configuration_that_would_be_computed_wrongly_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    model = write_model(tmp_path / "odd")
    written = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(written | changes))
    with pytest.raises(ConfigError, match=message):
        loading.load(config(model, backend="torch"))
