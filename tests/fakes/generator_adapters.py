"""Adapters in memory that hold no weights, and adapter folders that pass the checks."""

import hashlib
import json
import struct
import threading
from pathlib import Path
from typing import Any

from services.generator.domain import Adapter
from services.generator.registry import Rules, Shapes
from services.generator.registry.tensors import configuration, num_parameters
from tandem.adapters import CONFIG, WEIGHTS
from tests.fakes.adapter_versions import BASE, keys, publish

SHAPES = {"model.layers.0.self_attn.q_proj": (6, 4)}
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
GOOD_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "lora_dropout": 0.0}


class FakeAdapters:
    """Implements the Adapters port. `fail` is raised by the next load; with `gate` each load waits to be let through.

    `overlaps` counts calls that ran beside another one, which the port forbids.
    """

    def __init__(self, *, gate: threading.Semaphore | None = None) -> None:
        self.held: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.fail: Exception | None = None
        self.entered = threading.Event()
        self.overlaps = 0
        self._gate = gate
        self._busy = threading.Lock()

    def load(self, adapter: Adapter) -> None:
        """Takes an adapter in."""
        self._enter("load", adapter.key)
        try:
            if self._gate is not None and not self._gate.acquire(timeout=30):
                raise TimeoutError("nobody let the load through")
            failure, self.fail = self.fail, None
            if failure is not None:
                raise failure
            if adapter.key not in self.held:
                self.held.append(adapter.key)
        finally:
            self._busy.release()

    def unload(self, key: str) -> None:
        """Lets an adapter go; one that is not held is a KeyError."""
        self._enter("unload", key)
        try:
            self.held.remove(key)
        finally:
            self._busy.release()

    def _enter(self, kind: str, key: str) -> None:
        if not self._busy.acquire(blocking=False):
            self.overlaps += 1
            self._busy.acquire()
        self.calls.append((kind, key))
        self.entered.set()


def tensors(rank: int = 2, out: int = 6, into: int = 4) -> dict[str, list[int]]:
    """Returns the shapes of an adapter on the one layer of SHAPES."""
    return {f"{PREFIX}.lora_A.weight": [rank, into], f"{PREFIX}.lora_B.weight": [out, rank]}


def safetensors_bytes(shapes: dict[str, list[int]], *, dtype: str = "F16", width: int = 2, fill: int = 0) -> bytes:
    """Returns a safetensors file whose bytes are all `fill`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + shape[0] * shape[1] * width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * end


def place(
    folder: Path,
    *,
    tenant: str = "halden",
    name: str = "answers",
    config: object = GOOD_CONFIG,
    data: bytes = b"",
    fill: int = 0,
    **changes: Any,
) -> Path:
    """Writes a signed version and makes it stable; returns its folder. `fill` makes versions differ."""
    files = {
        CONFIG: (config if isinstance(config, str) else json.dumps(config)).encode(),
        WEIGHTS: data or safetensors_bytes(tensors(), fill=fill),
    }
    return publish(folder, files, tenant=tenant, name=name, **changes)


def rules(**changes: Any) -> Rules:
    """Returns rules that let in what `place` writes."""
    return Rules(**{"shapes": SHAPES, "base_sha256": BASE, "keys": keys, **changes})


def unsigned(folder: Path, shapes: Shapes) -> Adapter:
    """Returns the adapter in a folder of PEFT's layout <tenant>/<name>, as training leaves it, unsigned."""
    data = (folder / WEIGHTS).read_bytes()
    config = (folder / CONFIG).read_bytes()
    form = configuration(config, method="prefix" if b"PREFIX_TUNING" in config else "lora")
    return Adapter(
        tenant=folder.parent.name,
        name=folder.name,
        sha256=hashlib.sha256(data).hexdigest(),
        rank=form.rank,
        scale=form.scale,
        num_virtual=form.num_virtual,
        num_parameters=num_parameters(data, form=form, shapes=shapes),
        read=(folder / WEIGHTS).read_bytes,
    )
