"""Reads and checks a model folder of the Llama family: what its configuration says, and tensors of the right shape."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from services.generator.backend.weights import weight_files

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})


class UnknownArchitecture(ValueError):
    """Says why the paged runner does not know a model; another runner may."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Stretches rotary positions as Llama 3.1 does (arXiv 2407.21783): low frequencies by `factor`, high ones not."""

    factor: float
    low: float
    high: float
    original: float
    """Positions that the model was first trained on."""

    def apply(self, frequencies: Tensor) -> Tensor:
        """Returns the stretched frequencies."""
        lengths = 2 * math.pi / frequencies
        share = ((self.original / lengths - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - share) * frequencies / self.factor + share * frequencies


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Describes a model of the Llama family."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    max_context: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    qk_norm: bool
    tied: bool

    @property
    def repeats(self) -> int:
        """Returns the query heads that share a KV head."""
        return self.heads // self.kv_heads


def read_shape(folder: Path) -> LlamaShape:
    """Returns what config.json describes.

    Raises UnknownArchitecture for what the forward pass does not do,
    ValueError for a configuration that makes no sense.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _refuse_unknown(config)
    heads = _count(config, "num_attention_heads")
    hidden = _count(config, "hidden_size")
    kv_heads = _count(config, "num_key_value_heads", default=heads)
    head_dim = _count(config, "head_dim", default=hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(f"{heads} heads of {head_dim} dimensions do not share {kv_heads} KV heads evenly")
    rope = _rope(config)
    return LlamaShape(
        vocabulary=_count(config, "vocab_size"),
        hidden=hidden,
        intermediate=_count(config, "intermediate_size"),
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        eps=float(config.get("rms_norm_eps", 1e-6)),
        max_context=_count(config, "max_position_embeddings"),
        rope_theta=float(rope.get("rope_theta") or 10_000.0),
        rope_scaling=_scaling(rope),
        qk_norm=config["model_type"] == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UnknownArchitecture(f"models of type {kind!r} are not of the Llama family")
    if not any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ["LlamaForCausalLM"]):
        raise UnknownArchitecture(f"{config['architectures']} is no causal language model")
    if config.get("quantization_config") is not None:
        raise UnknownArchitecture("the weights are quantised in a format that the paged runner does not read")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UnknownArchitecture(f"the activation {config['hidden_act']!r} is not known")
    layers = set(config.get("layer_types") or ()) - {"full_attention"}
    window = config.get("sliding_window")
    if kind in ("qwen2", "qwen3") and not config.get("use_sliding_window"):
        window = None
    if layers or (window is not None and window < config.get("max_position_embeddings", 0)):
        raise UnknownArchitecture("attention over a sliding window is not known")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rotary parameters, which stood in two other places before transformers 5."""
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", config.get("rope_theta"))
    rope.setdefault("rope_type", rope.get("type", "default"))
    if rope["rope_type"] not in ("default", "llama3"):
        raise UnknownArchitecture(f"rotary positions of type {rope['rope_type']!r} are not known")
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise UnknownArchitecture("rotary positions on a part of each head are not known")
    return rope


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    try:
        return RopeScaling(
            factor=float(rope["factor"]),
            low=float(rope["low_freq_factor"]),
            high=float(rope["high_freq_factor"]),
            original=float(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise ValueError(f"config.json gives no {error} for its rotary positions") from error


def _count(config: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json gives no usable {name}")
    return value


class Checkpoint:
    """Hands out the tensors of a folder, each once and checked."""

    def __init__(self, folder: Path) -> None:
        self.shape = read_shape(folder)
        files: list[Any] = [safe_open(path, framework="pt") for path in weight_files(folder)]
        self._where = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if "model.embed_tokens.weight" not in self._where:
            raise UnknownArchitecture("the tensors are not named as those of a causal model of the Llama family")

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns a tensor; raises ValueError where it is missing or has another shape or no floating-point numbers."""
        tensor = self.take_optional(name, *shape)
        if tensor is None:
            raise ValueError(f"the weights lack {name}")
        return tensor

    def take_optional(self, name: str, *shape: int) -> Tensor | None:
        """Returns a tensor, or None where there is none of this name."""
        file = self._where.pop(name, None)
        if file is None:
            return None
        tensor: Tensor = file.get_tensor(name)
        if tuple(tensor.shape) != shape or tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not floating-point {shape}")
        return tensor

    def finish(self) -> None:
        """Raises UnknownArchitecture where tensors are left that a forward pass should have used."""
        left = [name for name in self._where if not name.endswith("rotary_emb.inv_freq")]
        if self.shape.tied:
            left = [name for name in left if name != "lm_head.weight"]
        if left:
            raise UnknownArchitecture(f"the weights hold tensors that are not known, such as {min(left)}")
