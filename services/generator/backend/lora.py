"""Adapters on a running model: every row of a batch gets its own low-rank part, or none."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from torch import Tensor, nn

from services.generator.domain import Adapter

_WEIGHTS = "adapter_model.safetensors"


@dataclass
class Rows:
    """Tells the adapted layers which rows of the current batch use which adapter."""

    groups: list[tuple[str, Tensor | None]] = field(default_factory=list)
    """Pairs of an adapter and its rows; None stands for all of them."""

    def set(self, keys: Sequence[str | None]) -> None:
        """Takes the adapter of each row."""
        used = sorted({key for key in keys if key is not None})
        if len(used) == 1 and all(key is not None for key in keys):
            self.groups = [(used[0], None)]
            return
        self.groups = [(key, torch.tensor([i for i, other in enumerate(keys) if other == key])) for key in used]


class AdaptedLinear(nn.Module):
    """Adds the low-rank part of each row's adapter to a linear layer; x is (B, T, in), the result (B, T, out)."""

    def __init__(self, base: nn.Linear, rows: Rows) -> None:
        super().__init__()
        self.base = base
        self._rows = rows
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, key: str, *, a: Tensor, b: Tensor) -> None:
        """Puts an adapter's matrices in; a is (rank, in), b is (out, rank) with its scale multiplied in."""
        weight = self.base.weight
        self._parts[key] = (a.to(weight), b.to(weight))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output for the batch that `Rows` describes."""
        out: Tensor = self.base(x)
        for key, rows in self._rows.groups:
            part = self._parts.get(key)
            if part is None:
                continue
            if rows is None:
                out = out + nn.functional.linear(nn.functional.linear(x, part[0]), part[1])
            else:
                low = nn.functional.linear(x[rows], part[0])
                out[rows] += nn.functional.linear(low, part[1])
        return out


class AdapterBank:
    """Holds the adapters of one model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.rows = Rows()

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Returns the layers that adapters may touch: name -> (out, in). The vocabulary projection is none of them."""
        head = getattr(self._model, "lm_head", None)
        return {
            name.removesuffix(".base"): (module.out_features, module.in_features)
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }

    def load(self, adapter: Adapter) -> None:
        """Loads an adapter that the registry verified.

        Raises ValueError where the file is not the one that was verified, or
        holds weights that are not finite; the model is then unchanged.
        """
        data = (adapter.folder / _WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != adapter.sha256:
            raise ValueError("the weights changed after they were verified")
        weights = safetensors.torch.load(data)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise ValueError("the weights are not all finite numbers")
        prefix, suffix = "base_model.model.", ".lora_A.weight"
        for key, a in weights.items():
            if key.endswith(suffix):
                name = key[len(prefix) : -len(suffix)]
                b = weights[f"{prefix}{name}.lora_B.weight"].float() * adapter.scale
                self._layer(name).add(adapter.key, a=a, b=b)

    def _layer(self, name: str) -> AdaptedLinear:
        layer = self._model.get_submodule(name)
        if isinstance(layer, AdaptedLinear):
            return layer
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is no linear layer")
        adapted = AdaptedLinear(layer, self.rows)
        parent, _, child = name.rpartition(".")
        setattr(self._model.get_submodule(parent), child, adapted)
        return adapted
