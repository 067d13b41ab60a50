"""Checks what an adapter declares against the base model: its configuration, its header and every shape.

A safetensors file is 8 bytes of length, a JSON header of that length, and the
numbers of all tensors, one after the other without a gap
(https://huggingface.co/docs/safetensors). No number is looked at here.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.adapters import CONFIG, WEIGHTS, AdapterRefused, Refusal

_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER = 8 * 1024 * 1024
_MAX_RANK = 256
_MAX_ALPHA = 1_000_000
_MAX_VIRTUAL = 1024
_PREFIX = "prompt_embeddings"
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How archives of torch.save and pickles begin; a safetensors file has its brace as the ninth byte."""

Shapes = Mapping[str, tuple[int, int]]
"""The base model's linear layers that adapters may touch: name -> (out, in)."""


@dataclass(frozen=True)
class Form:
    """Is what a PEFT configuration asks for: low-rank weights, or a prefix of `num_virtual` positions."""

    rank: int = 0
    scale: float = 1.0
    num_virtual: int = 0


def configuration(data: bytes, *, method: str) -> Form:
    """Returns the form of an adapter; raises AdapterRefused where it is not of the method that the manifest names."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(Refusal.CONFIG_INVALID, f"{CONFIG} cannot be read") from error
    kind = {"lora": "LORA", "prefix": "PREFIX_TUNING"}[method]
    if not isinstance(config, dict) or config.get("peft_type") != kind:
        raise AdapterRefused(Refusal.UNSUPPORTED, f"{CONFIG} does not describe an adapter of the method {method}")
    return _low_rank(config) if method == "lora" else _prefix(config)


def _prefix(config: Mapping[str, Any]) -> Form:
    num_virtual = config.get("num_virtual_tokens")
    if not isinstance(num_virtual, int) or isinstance(num_virtual, bool) or not 1 <= num_virtual <= _MAX_VIRTUAL:
        message = f"num_virtual_tokens is not a number from 1 to {_MAX_VIRTUAL}"
        raise AdapterRefused(Refusal.CONFIG_INVALID, message)
    if config.get("prefix_projection"):
        raise AdapterRefused(Refusal.UNSUPPORTED, "prefix_projection is not supported: export the projected prefix")
    return Form(num_virtual=num_virtual)


def _low_rank(config: Mapping[str, Any]) -> Form:
    if extras := [key for key in _UNSUPPORTED if config.get(key)]:
        raise AdapterRefused(Refusal.UNSUPPORTED, f"{extras[0]} is not supported")
    if config.get("bias", "none") != "none":
        raise AdapterRefused(Refusal.UNSUPPORTED, "trained biases are not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MAX_RANK:
        raise AdapterRefused(Refusal.CONFIG_INVALID, f"r is not a number from 1 to {_MAX_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not -_MAX_ALPHA <= alpha <= _MAX_ALPHA:
        message = f"lora_alpha is not a number from -{_MAX_ALPHA:,} to {_MAX_ALPHA:,}"
        raise AdapterRefused(Refusal.CONFIG_INVALID, message)
    return Form(rank=rank, scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def num_parameters(data: bytes, *, form: Form, shapes: Shapes) -> int:
    """Returns the number of weights in a safetensors file; raises AdapterRefused unless it is sound and fits."""
    header = _header(data)
    if form.num_virtual:
        _check_prefix(header, form.num_virtual, shapes)
    else:
        _check_low_rank(header, form.rank, shapes)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _check_prefix(header: Mapping[str, Any], num_virtual: int, shapes: Shapes) -> None:
    keys = sum(out for name, (out, _) in shapes.items() if name.endswith(".k_proj"))
    if set(header) != {_PREFIX}:
        raise AdapterRefused(Refusal.BASE_MISMATCH, f"a prefix holds {_PREFIX} and nothing else")
    wanted, shape = [num_virtual, 2 * keys], header[_PREFIX]["shape"]
    if shape != wanted:
        message = f"{_PREFIX} has shape {str(shape)[:100]}, the base model needs {wanted}"
        raise AdapterRefused(Refusal.BASE_MISMATCH, message)


def _check_low_rank(header: Mapping[str, Any], rank: int, shapes: Shapes) -> None:
    parts: dict[str, set[str]] = {}
    for key, tensor in header.items():
        match = _KEY.fullmatch(key)
        if match is None or match["layer"] not in shapes:
            raise AdapterRefused(Refusal.BASE_MISMATCH, f"the base model has no place for {key[:100]}")
        out, into = shapes[match["layer"]]
        wanted = [rank, into] if match["part"] == "A" else [out, rank]
        if tensor["shape"] != wanted:
            message = f"{key} has shape {str(tensor['shape'])[:100]}, the base model needs {wanted}"
            raise AdapterRefused(Refusal.BASE_MISMATCH, message)
        parts.setdefault(match["layer"], set()).add(match["part"])
    if not parts:
        raise _damaged("it holds no weights")
    if lonely := [layer for layer, found in parts.items() if len(found) < 2]:
        raise _damaged(f"{lonely[0]} has only one of its two matrices")


def _header(data: bytes) -> dict[str, Any]:
    """Returns the tensors that a safetensors file declares, after checking that the file holds them."""
    length = _header_length(data)
    try:
        # As text: of bytes json would take UTF-16 as well.
        header = json.loads(data[8 : 8 + length].decode())
    except (ValueError, RecursionError) as error:
        raise _damaged("the safetensors header is damaged") from error
    if not isinstance(header, dict):
        raise _damaged("the safetensors header is damaged")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise _damaged("the safetensors header has metadata that is not text")
    end = 0
    for tensor in sorted(header.values(), key=_offset):
        begin, finish = tensor["data_offsets"]
        if begin != end or finish - begin != _num_bytes(tensor):
            raise _damaged("the safetensors header does not match its data")
        end = finish
    there = len(data) - 8 - length
    if there < end:
        raise AdapterRefused(Refusal.TRUNCATED, f"{WEIGHTS} is cut short: {there} bytes of weights of {end}")
    if there > end:
        raise _damaged("the safetensors file is padded")
    return header


def _header_length(data: bytes) -> int:
    if data.startswith(_PICKLED) and data[8:9] != b"{":
        raise AdapterRefused(Refusal.PICKLE, f"{WEIGHTS} is a pickle by another name; only safetensors are loaded")
    if len(data) < 8:
        raise AdapterRefused(Refusal.TRUNCATED, f"{WEIGHTS} is cut short: {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER:
        message = f"the safetensors header claims {length:,} bytes; {_MAX_HEADER:,} are allowed"
        raise AdapterRefused(Refusal.HEADER_TOO_LARGE, message)
    if length > len(data) - 8:
        raise AdapterRefused(Refusal.TRUNCATED, f"{WEIGHTS} is cut short: it ends inside its header")
    return length


def _offset(tensor: Any) -> int:
    try:
        begin, end = tensor["data_offsets"]
        shape = tensor["shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("the safetensors header is damaged") from error
    if not isinstance(shape, list) or not all(_is_count(n) for n in (begin, end, *shape)):
        raise _damaged("the safetensors header is damaged")
    return int(begin)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _num_bytes(tensor: Mapping[str, Any]) -> int:
    width = _DTYPES.get(str(tensor.get("dtype")))
    if width is None:
        kind = str(tensor.get("dtype"))[:20]
        raise AdapterRefused(Refusal.UNSUPPORTED, f"number format {kind} is not supported")
    return int(math.prod(tensor["shape"])) * width


def _damaged(message: str) -> AdapterRefused:
    return AdapterRefused(Refusal.HEADER_INVALID, message)
