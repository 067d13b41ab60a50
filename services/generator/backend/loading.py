"""Brings up everything that needs torch: weights, tokenizer, adapters, and a first pass to warm them."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from services.generator.backend import weights
from services.generator.backend.runner import TorchRunner, load_runner
from services.generator.backend.tokenizer import HfTokenizer, load_tokenizer
from services.generator.config import GeneratorConfig
from services.generator.domain import Adapter, ModelInfo, Row, Sampling
from tandem.config import cache_home
from tandem.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """Is a model that is ready to run."""

    runner: TorchRunner
    tokenizer: HfTokenizer
    model: ModelInfo


def prepare(config: GeneratorConfig) -> Path:
    """Returns the model's folder, converting the bundled model if need be; raises ConfigError without a model."""
    return weights.model_folder(config.model, cache=config.cache_dir or cache_home())


def load(config: GeneratorConfig) -> Loaded:
    """Loads model and tokenizer; raises ConfigError where they cannot be used."""
    started = time.monotonic()
    folder = prepare(config)
    try:
        tokenizer = load_tokenizer(folder)
        runner = load_runner(folder, precision=config.precision, device=config.device, threads=config.threads)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"the model in {folder} cannot be loaded: {error}") from error
    model = ModelInfo(
        name=folder.name,
        sha256=weights.weights_sha256(folder),
        max_context_tokens=runner.max_context_tokens,
        precision=runner.precision,
    )
    log.info(
        "model loaded",
        extra={"model": model.name, "precision": model.precision, "seconds": round(time.monotonic() - started, 1)},
    )
    return Loaded(runner, tokenizer, model)


def load_adapter(runner: TorchRunner, adapter: Adapter) -> bool:
    """Puts a verified adapter on the model; one that turns out to be unusable is logged and left out."""
    try:
        runner.bank.load(adapter)
    except (OSError, ValueError) as error:
        log.warning("adapter refused: %s", error, extra={"adapter": adapter.key})
        return False
    log.info("adapter loaded", extra={"adapter": adapter.key, "sha256": adapter.sha256})
    return True


def warm_up(runner: TorchRunner) -> None:
    """Runs one short sequence, so that the first caller does not pay for the first pass."""
    runner.prefill([Row(id=-1, prompt=(0, 0, 0, 0), sampling=Sampling(), adapter_key=None)])
    runner.step()
    runner.remove([-1])
