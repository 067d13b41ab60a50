"""Adapters beside a running model: each row of a step gets the low-rank part of its own adapter, or none.

The matrices A of all adapters of a step are laid under one another. One
product then gives every row its low-rank activations under all of them, a
mask leaves each row those of its own adapter, and one product with all B
beside one another brings them back: three operations for a linear layer,
however many adapters there are.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from services.generator.backend.apart import apart
from services.generator.backend.checkpoint import LlamaShape
from services.generator.backend.linear import Linear, make_linear
from services.generator.backend.llama import PARTS, layer_shape, padded, reorder_rotary, rotary_order
from services.generator.domain import Adapter
from tandem.adapters import AdapterRefused, Refusal

_SPARE = 2
"""How many times the rank that a step needs may be carried along before the matrices are laid together anew."""
_SMALL = 768
"""Up to this rank times rows, plain products in fp32 are faster on a CPU: oneDNN takes 15 us a call (docs/log.md)."""
_SMALL_RANK = 128
"""Adapters of a larger rank are read from memory once more in fp32 than they are worth."""
_MAX_STACKS = 4
"""How many sets of adapters stay laid together: a cascade, or two tenants, take turns."""

Matrices = dict[tuple[int, str], tuple[Tensor, Tensor]]
"""For a decoder layer's number and one of its PARTS: A (rank, in) and B (out, rank), its scale multiplied in."""


def read_weights(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns for each adapted layer A (rank, in) and B (out, rank), in fp32, B with the adapter's scale.

    Raises ValueError where the file is not the one that was verified or
    holds numbers that are not finite, and what `adapter.read` raises.
    """
    tensors = _read(adapter)
    prefix, suffix = "base_model.model.", ".lora_A.weight"
    found = {}
    for name in [key[len(prefix) : -len(suffix)] for key in tensors if key.endswith(suffix)]:
        a = tensors[f"{prefix}{name}.lora_A.weight"].float()
        b = tensors[f"{prefix}{name}.lora_B.weight"].float() * adapter.scale
        if not (_all_finite(a) and _all_finite(b)):
            raise ValueError("the weights are not all finite numbers")
        found[name] = (a, b)
    return found


def read_prefix(adapter: Adapter, shape: LlamaShape) -> Tensor:
    """Returns a prefix's keys and values (layers, n, 2 * kv_heads, head_dim) as blocks hold them; raises as above.

    PEFT keeps (n, layers * 2 * kv_heads * head_dim), the keys with their
    positions applied, the dimensions of a head in the checkpoint's order.
    """
    found = _read(adapter)["prompt_embeddings"].float()
    if not _all_finite(found):
        raise ValueError("the prefix is not all finite numbers")
    kv = found.view(adapter.num_virtual, shape.layers, 2, shape.kv_heads, shape.head_dim).transpose(0, 1).clone()
    kv[:, :, 0] = kv[:, :, 0][..., rotary_order(shape)]
    return kv.flatten(2, 3)


def _read(adapter: Adapter) -> dict[str, Tensor]:
    data = adapter.read()
    if hashlib.sha256(data).hexdigest() != adapter.sha256:
        raise ValueError("the weights changed after they were verified")
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        message = "its weights are no safetensors file"
        raise AdapterRefused(Refusal.HEADER_INVALID, message, detail=str(error)) from error


def _all_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


class MissingAdapters(LookupError):
    """Says that adapters that a step names are not in memory."""

    def __init__(self, keys: Collection[str | None]) -> None:
        self.keys = frozenset(keys)
        super().__init__(f"{len(self.keys)} adapters are not in memory")


class AdapterBank:
    """Holds the adapters of a model of the Llama family."""

    def __init__(self, shape: LlamaShape, *, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._adapters: dict[str, Matrices] = {}
        """A prefix has no matrices."""
        self._prefixes: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self._stacks: OrderedDict[tuple[str, ...], _Stack] = OrderedDict()
        """What steps used, the latest last; only the thread that runs steps makes them, unload may drop some."""

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Returns the layers that adapters may touch: name -> (out, in). The vocabulary projection is none of them."""
        names = [name for part in PARTS.values() for name in part]
        return {
            f"model.layers.{number}.{name}": layer_shape(self._shape, name)
            for number in range(self._shape.layers)
            for name in names
        }

    def load(self, adapter: Adapter) -> None:
        """Reads the weights of an adapter; does nothing if they are there. Raises as the port says."""
        if adapter.key in self._adapters:
            return
        if adapter.num_virtual:
            prefix = apart(lambda: read_prefix(adapter, self._shape)).to(self._device)
            with self._lock:
                self._adapters[adapter.key] = {}
                self._prefixes[adapter.key] = prefix
            return
        matrices = apart(lambda: self._fused(read_weights(adapter)))
        with self._lock:
            self._adapters[adapter.key] = matrices

    def unload(self, key: str) -> None:
        """Drops the weights of an adapter."""
        with self._lock:
            self._adapters.pop(key, None)
            self._prefixes.pop(key, None)
            for keys in [keys for keys in self._stacks if key in keys]:
                del self._stacks[keys]

    def active(self, keys: Sequence[str | None], counts: Sequence[int]) -> "Active | None":
        """Returns what the works of a step add, given the adapter of each and its number of rows; None for nothing.

        Raises MissingAdapters.
        """
        # Of one that is not there `_stacked` tells.
        keys = [None if key in self._prefixes else key for key in keys]
        used = {key for key in keys if key is not None}
        if not used:
            return None
        stack = self._stacked(used)
        index = torch.tensor([stack.keys.index(key) if key is not None else -1 for key in keys])
        rows = index.repeat_interleave(torch.tensor(counts))
        rows = functional.pad(rows, (0, padded(len(rows)) - len(rows)), value=-1).to(self._device)
        alone = len(stack.keys) == 1 and None not in keys
        return Active(stack, None if alone else rows, self._dtype)

    def prefix(self, key: str | None) -> Tensor:
        """Returns an adapter's prefix (layers, n, 2 * kv_heads, head_dim); raises MissingAdapters."""
        with self._lock:
            if key not in self._prefixes:
                raise MissingAdapters([key])
            return self._prefixes[key]

    def _stacked(self, used: set[str]) -> "_Stack":
        with self._lock:
            for keys, stack in reversed(self._stacks.items()):
                if used <= set(keys) and len(keys) <= _SPARE * len(used):
                    self._stacks.move_to_end(keys)
                    return stack
            missing = used - self._adapters.keys()
            if missing:
                raise MissingAdapters(missing)
            stack = self._stacks[tuple(sorted(used))] = _Stack.of({key: self._adapters[key] for key in sorted(used)})
            if len(self._stacks) > _MAX_STACKS:
                self._stacks.popitem(last=False)
            return stack

    def _fused(self, weights: Mapping[str, tuple[Tensor, Tensor]]) -> Matrices:
        """Lays the matrices of layers that the model computes together on top of one another."""
        left = dict(weights)
        order = rotary_order(self._shape)
        fused: Matrices = {}
        for number in range(self._shape.layers):
            for part, names in PARTS.items():
                given = {name: left.pop(f"model.layers.{number}.{name}", None) for name in names}
                if not any(given.values()):
                    continue
                rows, blocks = [], []
                for name in names:
                    out, into = layer_shape(self._shape, name)
                    a, b = given[name] or (torch.zeros(0, into), torch.zeros(out, 0))
                    if a.shape[1] != into or b.shape != (out, len(a)):
                        raise ValueError(f"the adapter's layer {number}.{name} has another shape than the model's")
                    rows.append(a)
                    blocks.append(reorder_rotary(b, order) if name.endswith(("q_proj", "k_proj")) else b)
                matrices = torch.cat(rows), torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
                a, b = (matrix.to(self._device, self._dtype) for matrix in matrices)
                if not (_all_finite(a) and _all_finite(b)):
                    raise ValueError(f"the weights of layer {number} are not finite numbers in {self._dtype}")
                fused[number, part] = (a, b)
        if left:
            raise ValueError(f"the model has no layer {min(left)}")
        return fused


@dataclass(frozen=True, eq=False)
class _Stack:
    """Is several adapters laid together."""

    keys: tuple[str, ...]
    linears: dict[tuple[int, str], tuple[Linear, Linear]]
    """From in to the sum of ranks, and from there to out."""
    plain: Matrices
    """The same as matrices (in, rank) and (rank, out) in fp32, for small steps; empty where they are of no use."""
    columns: dict[tuple[int, str], tuple[int, ...]]
    """The rank that each adapter has there, and how many columns more belong to none."""

    @classmethod
    def of(cls, adapters: Mapping[str, Matrices]) -> "_Stack":
        linears, columns = {}, {}
        plain: Matrices = {}
        for place in sorted({place for adapter in adapters.values() for place in adapter}):
            parts = [adapter.get(place) for adapter in adapters.values()]
            a = torch.cat([part[0] for part in parts if part is not None])
            b = torch.cat([part[1] for part in parts if part is not None], dim=1)
            spare = 0 if len(adapters) == 1 else _filled(len(a)) - len(a)
            a, b = functional.pad(a, (0, 0, 0, spare)), functional.pad(b, (0, spare))
            precision = "bf16" if a.dtype == torch.bfloat16 else "fp32"
            linears[place] = (make_linear(a, precision=precision), make_linear(b, precision=precision))
            if a.device.type == "cpu" and len(a) <= _SMALL_RANK:
                plain[place] = (a.T.float().contiguous(), b.T.float().contiguous())
            columns[place] = (*(0 if part is None else len(part[0]) for part in parts), spare)
        return cls(tuple(adapters), linears, plain, columns)


def _filled(rank: int) -> int:
    """Returns the power of two that a sum of ranks is filled up to: oneDNN keeps kernels for every sum it meets."""
    return 1 << (rank - 1).bit_length()


@dataclass(frozen=True, eq=False)
class Active:
    """Adds the adapters of one step's rows to the output of linear layers."""

    stack: _Stack
    rows: Tensor | None
    """The adapter of each row by its place in the stack, -1 for none (T,); None where all rows use its only one."""
    dtype: torch.dtype
    masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def add(self, out: Tensor, x: Tensor, *, layer: int, part: str) -> None:
        """Changes out (T, out), the output of a layer's part for x (T, in)."""
        place = (layer, part)
        linears = self.stack.linears.get(place)
        if linears is None:
            return
        plain = self.stack.plain.get(place)
        if plain is not None and plain[0].shape[1] * len(x) <= _SMALL:
            out.add_(self._own(x.float().mm(plain[0]), place).mm(plain[1]))
        else:
            out.add_(linears[1](self._own(linears[0](x.to(self.dtype)), place)))

    def _own(self, low: Tensor, place: tuple[int, str]) -> Tensor:
        """Leaves each row what its own adapter makes of it."""
        if self.rows is None:
            return low
        # Not a product with 0: what another row's adapter makes of this row may be infinite.
        return low.masked_fill_(self._mask(self.rows, self.stack.columns[place]), 0)

    def _mask(self, rows: Tensor, ranks: tuple[int, ...]) -> Tensor:
        """Tells where a column belongs to another adapter than the row's; most layers share one mask."""
        mask = self.masks.get(ranks)
        if mask is None:
            owner = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks)).to(rows.device)
            mask = self.masks[ranks] = rows.unsqueeze(1) != owner
        return mask
