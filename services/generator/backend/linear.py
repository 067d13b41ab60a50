"""Linear layers in the three number formats, each in the form that its device multiplies fastest.

On a CPU weights are kept in oneDNN's own blocked layout: measured on Zen 5,
that is 1.2 to 2 times as fast in bf16 as a plain matrix and 2.4 times in
fp32 (docs/log.md). On a GPU they stay plain.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_NO_SCALARS: list[float] = []


class Linear(Protocol):
    """Maps (T, in) to (T, out)."""

    out_features: int
    in_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """Returns x times the transposed weight, plus the bias; the result is new and may be changed."""


class DenseLinear:
    """Is a linear layer on a plain matrix."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the layer's output."""
        return functional.linear(x, self._weight, self._bias)


class PackedLinear:
    """Is a linear layer on weights in oneDNN's layout, fp32 or bf16, on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the layer's output."""
        out: Tensor = self._run(x, self._weight, self._bias, "none", _NO_SCALARS, "")
        return out


class Int8Linear:
    """Is a linear layer with int8 weights by output channel and 8-bit activations by row, on a CPU; x is fp32.

    Every row is scaled by its own largest magnitude to a fixed range, and
    the products are summed in whole numbers: a row's result is the same
    whatever rows come with it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        # Without VNNI instructions pairs of products saturate at 16 bits; with half the range they cannot.
        self._range = 127.0 if has_vnni() else 63.0
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny * 256) / 127
        whole = (weight / scale.unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self._scale = scale / self._range
        self._zero = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = None if bias is None else bias.float()
        self._run = torch.ops.onednn.qlinear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the layer's output, in fp32."""
        peak = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-20)
        # Adding half a step before the fraction is cut off rounds to the nearest.
        whole = (x * (self._range / peak)).add_(128.5).to(torch.uint8)
        out: Tensor = self._run(
            whole, 1.0, 128, self._weight, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out.mul_(peak)
        return out if self._bias is None else out.add_(self._bias)


def make_linear(weight: Tensor, bias: Tensor | None = None, *, precision: str) -> Linear:
    """Returns a layer for weights (out, in) that lie on their device; precision is fp32, bf16 or int8."""
    if precision == "int8":
        return Int8Linear(weight, bias)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return PackedLinear(weight, bias)
    return DenseLinear(weight, bias)


def has_vnni() -> bool:
    """Tells whether the processor sums products of 8-bit numbers in 32 bits."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni") or found.get("amx_int8"))


def best_precision(device: str) -> str:
    """Returns bf16 on a GPU and on processors with bf16 instructions, else fp32."""
    if device != "cpu":
        return "bf16"
    found = torch.cpu.get_capabilities()
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16") else "fp32"
