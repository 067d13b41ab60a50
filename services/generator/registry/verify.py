"""Finds adapters on disk and checks them before anything loads them.

An adapter is a folder <tenant>/<name>/ in PEFT layout. Checked are the
configuration, the safetensors header and every shape against the base model,
so that a damaged or foreign file is refused with its reason and the service
goes on without it. Files that hold pickles are never opened, nor is anything
outside the tenant's folder, wherever a link points. No weights are read here
but to hash them.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.generator.domain import Adapter
from tandem.errors import ConfigError

log = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENANT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER = 8 * 1024 * 1024
_MAX_CONFIG = 1024 * 1024
_MAX_RANK = 256
_MAX_ALPHA = 1_000_000
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")

Shapes = Mapping[str, tuple[int, int]]
"""The base model's linear layers that adapters may touch: name -> (out, in)."""


class AdapterRefused(Exception):
    """Says why an adapter on disk is not loaded."""


def scan(folder: Path, shapes: Shapes, *, max_adapters: int) -> tuple[list[Adapter], int]:
    """Returns the folder's good adapters and the number of refused ones, each of which is logged with its reason.

    Raises ConfigError where the folder is missing or holds more than max_adapters.
    """
    if not folder.is_dir():
        raise ConfigError(f"the adapter folder {folder} does not exist")
    good: list[Adapter] = []
    refused = 0
    for place in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        try:
            good.append(verify(place, shapes))
        except AdapterRefused as error:
            refused += 1
            log.warning("adapter refused: %s", error, extra={"adapter": f"{place.parent.name}/{place.name}"})
    if len(good) > max_adapters:
        raise ConfigError(f"{folder} holds {len(good)} adapters; GENERATOR_MAX_ADAPTERS is {max_adapters}")
    return good, refused


def locate(root: Path, *, tenant: str, name: str) -> Path | None:
    """Returns where the tenant's adapter of that name would lie; None where the names are none or no folder is there.

    What a name or a link could reach outside the tenant's folder counts as not there.
    """
    if not _TENANT.fullmatch(tenant) or not _NAME.fullmatch(name):
        return None
    folder = root / tenant / name
    try:
        inside = folder.resolve(strict=True) == root.resolve(strict=True) / tenant / name
    except (OSError, RuntimeError):  # not there, or links in a circle
        return None
    return folder if inside and folder.is_dir() else None


def verify(folder: Path, shapes: Shapes) -> Adapter:
    """Returns the adapter in the folder <root>/<tenant>/<name>; raises AdapterRefused unless every check passes."""
    tenant, name = folder.parent.name, folder.name
    if not _TENANT.fullmatch(tenant) or not _NAME.fullmatch(name):
        raise AdapterRefused("names are letters, digits, '.', '_' and '-', at most 64")
    if locate(folder.parent.parent, tenant=tenant, name=name) is None:
        raise AdapterRefused("its folder is a link")
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl"))
        raise AdapterRefused(f"only safetensors are loaded, not {pickles[0]}" if pickles else f"{WEIGHTS} is missing")
    for path in (weights, folder / CONFIG):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise AdapterRefused(f"{path.name} is a link that leads out of the folder")
    rank, scale = _configuration(folder / CONFIG)
    try:
        header = _header(weights)
        num_parameters = _check_tensors(header, rank, shapes)
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AdapterRefused(f"{WEIGHTS} cannot be read: {error.strerror}") from error
    return Adapter(
        tenant=tenant,
        name=name,
        sha256=digest,
        rank=rank,
        scale=scale,
        num_parameters=num_parameters,
        folder=folder,
    )


def _configuration(path: Path) -> tuple[int, float]:
    """Returns rank and scale."""
    try:
        # Only a file of a sane size is opened: a pipe of that name would never end.
        if not path.is_file() or path.stat().st_size > _MAX_CONFIG:
            raise AdapterRefused(f"{CONFIG} cannot be read")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterRefused(f"{CONFIG} cannot be read") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterRefused(f"{CONFIG} does not describe a LoRA adapter")
    if extras := [key for key in _UNSUPPORTED if config.get(key)]:
        raise AdapterRefused(f"{extras[0]} is not supported")
    if config.get("bias", "none") != "none":
        raise AdapterRefused("trained biases are not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MAX_RANK:
        raise AdapterRefused(f"r is not a number from 1 to {_MAX_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not -_MAX_ALPHA <= alpha <= _MAX_ALPHA:
        raise AdapterRefused(f"lora_alpha is not a number from -{_MAX_ALPHA:,} to {_MAX_ALPHA:,}")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _header(path: Path) -> dict[str, Any]:
    """Returns the tensors that a safetensors file declares, after checking that the file holds them."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise AdapterRefused("the safetensors header is damaged")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise AdapterRefused("the safetensors header is damaged") from error
    if not isinstance(header, dict):
        raise AdapterRefused("the safetensors header is damaged")
    header.pop("__metadata__", None)
    end = 0
    for tensor in sorted(header.values(), key=_offset):
        begin, finish = tensor["data_offsets"]
        if begin != end or finish - begin != _num_bytes(tensor):
            raise AdapterRefused("the safetensors header does not match its data")
        end = finish
    if end != size - 8 - length:
        raise AdapterRefused("the safetensors file is cut short or padded")
    return header


def _offset(tensor: Any) -> int:
    try:
        begin, end = tensor["data_offsets"]
        shape = tensor["shape"]
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterRefused("the safetensors header is damaged") from error
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in (begin, end, *shape)):
        raise AdapterRefused("the safetensors header is damaged")
    return int(begin)


def _num_bytes(tensor: Mapping[str, Any]) -> int:
    width = _DTYPES.get(str(tensor.get("dtype")))
    if width is None:
        raise AdapterRefused(f"number format {tensor.get('dtype')} is not supported")
    return int(math.prod(tensor["shape"])) * width


def _check_tensors(header: Mapping[str, Any], rank: int, shapes: Shapes) -> int:
    """Returns the number of weights; raises AdapterRefused for a tensor that the base model has no place for."""
    parts: dict[str, set[str]] = {}
    for key, tensor in header.items():
        match = _KEY.fullmatch(key)
        if match is None or match["layer"] not in shapes:
            raise AdapterRefused(f"the base model has no place for {key[:100]}")
        out, into = shapes[match["layer"]]
        wanted = [rank, into] if match["part"] == "A" else [out, rank]
        if tensor["shape"] != wanted:
            raise AdapterRefused(f"{key} has shape {tensor['shape']}, the base model needs {wanted}")
        parts.setdefault(match["layer"], set()).add(match["part"])
    if not parts:
        raise AdapterRefused("it holds no weights")
    if lonely := [layer for layer, found in parts.items() if len(found) < 2]:
        raise AdapterRefused(f"{lonely[0]} has only one of its two matrices")
    return sum(math.prod(tensor["shape"]) for tensor in header.values())
