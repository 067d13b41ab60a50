"""Brings up everything that needs torch: weights, tokenizer, adapters, and a first step to warm them."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from services.generator.backend import weights
from services.generator.backend.apart import apart
from services.generator.backend.checkpoint import Checkpoint, UnknownArchitecture
from services.generator.backend.linear import best_precision
from services.generator.backend.llama import Llama
from services.generator.backend.lora import AdapterBank
from services.generator.backend.runner import PagedRunner
from services.generator.backend.tokenizer import HfTokenizer, load_tokenizer
from services.generator.backend.transformers_runner import HookedAdapters, TransformersRunner, load_model
from services.generator.config import GeneratorConfig
from services.generator.domain import Draw, Feature, ModelInfo, Sampling, Step, Work
from tandem.config import cache_home
from tandem.errors import ConfigError

log = logging.getLogger(__name__)
_FORMATS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Is a model that is ready to run."""

    runner: PagedRunner | TransformersRunner
    adapters: AdapterBank | HookedAdapters
    tokenizer: HfTokenizer
    model: ModelInfo
    kind: str
    """Which backend runs it, "torch" or "transformers"."""
    architecture: str
    """The model_type of its configuration."""
    features: frozenset[Feature] = frozenset(Feature)

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Returns the layers that adapters may touch: name -> (out, in)."""
        return self.adapters.shapes()


def prepare(config: GeneratorConfig) -> Path:
    """Returns the model's folder, converting the bundled model if need be; raises ConfigError without a model."""
    return weights.model_folder(config.model, cache=config.cache_dir or cache_home())


def load(config: GeneratorConfig) -> Loaded:
    """Loads model and tokenizer and warms them; raises ConfigError where they cannot be used as configured."""
    started = time.monotonic()
    precision = _check(config)
    folder = prepare(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        loaded = apart(lambda: _load_warm(folder, config, precision))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise ConfigError(f"the model in {folder} cannot be loaded: {error}") from error
    log.info(
        "model loaded",
        extra={
            "model": loaded.model.name,
            "precision": precision,
            "backend": loaded.kind,
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    return loaded


def _load_warm(folder: Path, config: GeneratorConfig, precision: str) -> Loaded:
    loaded = _load(folder, config, precision)
    warm_up(loaded.runner)
    return loaded


def warm_up(runner: PagedRunner | TransformersRunner) -> None:
    """Runs one short sequence, so that the first caller does not pay for the first steps.

    It also shows that the model can go on from what it keeps.
    """
    draw = Draw(sequence=0, works=(0,), sampling=Sampling(seed=0), history=(), position=0)
    blocks = range(-(-5 // runner.block_size))
    if len(blocks) <= runner.num_blocks:
        runner.run(Step((Work(stream=-1, tokens=(0, 0, 0, 0), start=0, blocks=blocks),), (draw,)))
        runner.run(Step((Work(stream=-1, tokens=(0,), start=4, blocks=blocks),), (draw,)))
    runner.release([-1])


def _check(config: GeneratorConfig) -> str:
    """Returns the precision to load; raises ConfigError for settings that do not go together."""
    if config.backend not in ("auto", "torch", "transformers"):
        raise ConfigError(f"GENERATOR_BACKEND={config.backend} loads no model here")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("GENERATOR_DEVICE=cuda, but torch finds no GPU")
    precision = best_precision(config.device) if config.precision == "auto" else config.precision
    if precision == "int8" and config.device != "cpu":
        raise ConfigError("GENERATOR_PRECISION=int8 runs on the CPU only")
    if precision == "int8" and config.backend == "transformers":
        raise ConfigError("GENERATOR_PRECISION=int8 needs the backend torch")
    if config.kv_cache_tokens < config.kv_block_tokens:
        raise ConfigError("GENERATOR_KV_CACHE_TOKENS is smaller than one block of GENERATOR_KV_BLOCK_TOKENS")
    return precision


def _load(folder: Path, config: GeneratorConfig, precision: str) -> Loaded:
    tokenizer = load_tokenizer(folder)
    runner, vocabulary, context = _runner(folder, config, precision)
    return Loaded(
        runner=runner,
        adapters=runner.adapters,
        tokenizer=tokenizer,
        model=ModelInfo(
            name=folder.name,
            sha256=weights.weights_sha256(folder),
            max_context_tokens=context,
            precision=_FORMATS[precision],
            vocabulary_size=vocabulary,
        ),
        kind="torch" if isinstance(runner, PagedRunner) else "transformers",
        architecture=json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""),
    )


def _runner(folder: Path, config: GeneratorConfig, precision: str) -> tuple[PagedRunner | TransformersRunner, int, int]:
    """Returns the runner, the vocabulary's size and the longest context."""
    size = config.kv_block_tokens
    num_blocks = config.kv_cache_tokens // size
    if config.backend != "transformers":
        try:
            checkpoint = Checkpoint(folder)
            model = Llama(checkpoint, precision=precision, device=torch.device(config.device))
        except UnknownArchitecture as error:
            if config.backend == "torch" or precision == "int8":
                raise
            log.info("the paged runner does not know the model: %s", error)
        else:
            shape = checkpoint.shape
            return PagedRunner(model, num_blocks=num_blocks, block_size=size), shape.vocabulary, shape.max_context
    other = load_model(folder, precision=precision, device=config.device)
    context = getattr(other.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int):
        raise ValueError("its configuration tells no max_position_embeddings")
    vocabulary = other.get_input_embeddings().num_embeddings
    return TransformersRunner(other, num_blocks=num_blocks, block_size=size), vocabulary, context
