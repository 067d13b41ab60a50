"""Runs models with torch or OpenVINO. The only room of the embedder that knows these and tokenizers."""

import ctypes
import logging
import platform
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from services.embedder.backend.encoder import TorchEncoder
from services.embedder.backend.folder import (
    BUNDLED_MODEL,
    ModelFolder,
    find_folder,
    read_cross_encoder,
    read_folder,
    read_json,
)
from services.embedder.backend.pairs import CrossEncoder, LateInteraction
from services.embedder.config import EmbedderConfig
from services.embedder.domain import LATE_INTERACTION, Encoder, PairScorer
from tandem.config import cache_home
from tandem.errors import ConfigError

log = logging.getLogger(__name__)
_MEASURED_ON = ("x86_64", "AMD64")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

__all__ = ["load_classifier", "load_encoder", "load_reranker"]


def load_encoder(config: EmbedderConfig, *, workers: int, threads: int) -> Encoder:
    """Loads the embedding model. Raises ConfigError when it cannot be served."""
    precision = _prepare(config, threads)
    folder = _embedding_folder(config)
    backend = choose_backend(config, folder)
    about = {"model": folder.name, "pooling": folder.pooling, "precision": precision, "backend": backend}
    log.info("loading model", extra=about)
    if backend == "openvino":
        # Imported here, for it need not be installed.
        from services.embedder.backend.openvino import OpenVinoEncoder

        cache = (config.cache_dir or cache_home()) / "embedder-int8"
        return OpenVinoEncoder(folder, precision=precision, workers=workers, threads=threads, cache=cache)
    return TorchEncoder(folder, precision=precision, device=config.device)


def load_reranker(config: EmbedderConfig, *, threads: int) -> PairScorer:
    """Loads what reranks, with torch. Raises ConfigError when it cannot be served."""
    precision = _torch_precision(_prepare(config, threads), config.device)
    if config.reranker == LATE_INTERACTION:
        return LateInteraction(_embedding_folder(config), precision=precision, device=config.device)
    return CrossEncoder(_cross_encoder("reranker", config.reranker), precision=precision, device=config.device)


def load_classifier(config: EmbedderConfig, *, threads: int) -> PairScorer:
    """Loads what classifies pairs, with torch. Raises ConfigError when it cannot be served."""
    precision = _torch_precision(_prepare(config, threads), config.device)
    return CrossEncoder(_cross_encoder("classifier", config.classifier), precision=precision, device=config.device)


def choose_backend(config: EmbedderConfig, folder: ModelFolder) -> str:
    """Returns "openvino" or "torch": what the configuration says, or which of them suits model and machine."""
    if config.backend != "auto":
        return config.backend
    if config.precision == "int8":
        return "openvino"
    here = config.device == "cpu" and platform.machine() in _MEASURED_ON and find_spec("openvino") is not None
    model = read_json(folder.weights / "config.json", dict)
    carried = model.get("model_type") == "bert" and not model.get("is_decoder")
    return "openvino" if here and carried else "torch"


def best_precision(device: str) -> str:
    """Returns bf16 on a GPU and on processors with bf16 instructions, else fp32."""
    found = torch.cpu.get_capabilities()
    fast = device == "cuda" or found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16")
    return "bf16" if fast else "fp32"


def _prepare(config: EmbedderConfig, threads: int) -> str:
    """Sets torch up and returns the precision."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device is cuda, but torch sees none; set the device to cpu")
    if config.device == "cuda" and config.backend == "openvino":
        raise ConfigError("the backend openvino runs on the cpu; set the backend to torch")
    if config.precision == "int8" and config.device == "cuda":
        raise ConfigError("int8 runs on the cpu; set the precision to bf16")
    if config.precision == "int8" and config.backend == "torch":
        raise ConfigError("int8 needs the backend openvino, in which it is faster than bf16")
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()  # the root logger has one
    _keep_freed_memory()
    torch.set_num_threads(threads)
    return best_precision(config.device) if config.precision == "auto" else config.precision


def _keep_freed_memory() -> None:
    """Lets glibc keep what a batch frees for the next one, which would else fault in the same pages again.

    malloc's own thresholds give it back time and again; a tenth of the time went into that.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 27)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)


def _torch_precision(precision: str, device: str) -> str:
    """Returns the precision of a model that torch runs where the embedding model has this one."""
    return best_precision(device) if precision == "int8" else precision


def _embedding_folder(config: EmbedderConfig) -> ModelFolder:
    model = config.model
    return read_folder(find_folder(model), name=model if model == BUNDLED_MODEL else Path(model).resolve().name)


def _cross_encoder(knob: str, path: str) -> ModelFolder:
    if not Path(path).is_dir():
        raise ConfigError(f"the {knob} {path!r} is no folder")
    return read_cross_encoder(Path(path))
