"""The forward pass of the Llama family (Llama, Qwen2, Qwen3, Mistral without a window), from a Hugging Face folder.

Query, key and value share one linear layer, gate and up another. The rows of
queries and keys are reordered so that the two numbers that rotary positions
(arXiv 2104.09864) turn together lie side by side: a rotation is then one
complex product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.backend import attention
from services.generator.backend.attention import Group, LaneGroup
from services.generator.backend.checkpoint import Checkpoint, LlamaShape
from services.generator.backend.kv import KVPool
from services.generator.backend.linear import Linear, make_linear


class Additions(Protocol):
    """Adds what adapters contribute to the output of a linear layer."""

    def add(self, out: Tensor, x: Tensor, *, layer: int, part: str) -> None:
        """Changes out (T, out) for input x (T, in); part is one of PARTS."""


PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The fused linear layers of a decoder layer, and the layers of the checkpoint that each stands for."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Says where the tokens of one pass stand; all of it is made once for all layers."""

    tokens: Tensor
    """Token ids (T,)."""
    positions: Tensor
    slots: Tensor
    """Where the pool keeps each token's key and value (T,)."""
    groups: Sequence[Group | LaneGroup]
    prefix: "Prefix | None" = None


@dataclass(frozen=True, eq=False)
class Prefix:
    """Is what stands at rows that are no tokens: keys and values that were learnt, whatever the model makes there."""

    rows: Tensor
    kv: Tensor
    """(layers, rows, 2 * kv_heads, head_dim)."""


@dataclass(frozen=True, eq=False)
class _Layer:
    input_norm: Tensor
    post_norm: Tensor
    linears: dict[str, Linear]
    qk_norm: Tensor | None
    """Weights of the norms on queries and keys (heads + kv_heads, head_dim)."""


class Llama:
    """Is a model in memory; `precision` is fp32, bf16 or int8."""

    def __init__(self, checkpoint: Checkpoint, *, precision: str, device: torch.device) -> None:
        self.shape = checkpoint.shape
        self.precision = precision
        self.device = device
        # Elementwise work is cheaper in fp32 than in bf16 on a CPU, and int8 layers take fp32.
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.kv_dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self._order = rotary_order(self.shape)
        embedding = checkpoint.take("model.embed_tokens.weight", self.shape.vocabulary, self.shape.hidden).to(device)
        self._layers = [self._layer(checkpoint, number) for number in range(self.shape.layers)]
        self._eps = torch.tensor(self.shape.eps, device=device)
        self._norm = self._vector(checkpoint, "model.norm.weight", self.shape.hidden)
        head = embedding
        if not self.shape.tied:
            head = checkpoint.take("lm_head.weight", self.shape.vocabulary, self.shape.hidden).to(device)
        self._head = make_linear(head, precision=precision)
        self._embedding = embedding.to(torch.float32 if precision == "fp32" else torch.bfloat16)
        self._turns = _turns(self.shape).to(device)
        heads = torch.ones(self.shape.heads + self.shape.kv_heads, 1)
        heads[: self.shape.heads] = self.shape.head_dim**-0.5
        self._scales = heads.to(device)
        """Attention's scale, which queries take on as they are turned, and keys do not."""
        checkpoint.finish()

    def new_pool(self, *, num_blocks: int, block_size: int) -> KVPool:
        """Returns an empty pool that fits the model."""
        return KVPool(
            num_layers=self.shape.layers,
            num_blocks=num_blocks,
            block_size=block_size,
            kv_heads=self.shape.kv_heads,
            head_dim=self.shape.head_dim,
            dtype=self.kv_dtype,
            device=self.device,
        )

    def forward(self, plan: Plan, pool: KVPool, additions: Additions | None = None) -> Tensor:
        """Reads the plan's tokens, stores their keys and values, and returns the last hidden states (T, hidden)."""
        rows = len(plan.tokens)
        spare = padded(rows) - rows
        x = functional.embedding(functional.pad(plan.tokens, (0, spare)), self._embedding).float()
        turns = self._turns[plan.positions].unsqueeze(1) * self._scales
        for number, layer in enumerate(self._layers):
            h = self._normed(x, layer.input_norm)
            qkv = _linear(layer, "qkv", h, number, additions)
            attended = h.new_zeros(len(h), self.shape.heads * self.shape.head_dim)
            self._attend(qkv[:rows], layer, number, turns, plan, pool, out=attended[:rows])
            x.add_(_linear(layer, "o", attended, number, additions))
            h = self._normed(x, layer.post_norm)
            gate, up = _linear(layer, "gate_up", h, number, additions).chunk(2, dim=-1)
            x.add_(_linear(layer, "down", functional.silu(gate).mul_(up), number, additions))
        return x[:rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits (N, V) after hidden states (N, hidden)."""
        rows = len(hidden)
        hidden = functional.pad(hidden, (0, 0, 0, padded(rows) - rows))
        return self._head(self._normed(hidden, self._norm))[:rows]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the root-mean-square norm (arXiv 1910.07467) of x, which is fp32, as the linear layers take it.

        In steps, because torch's own function is half as fast in bf16 on a CPU.
        """
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / self.shape.hidden).rsqrt_()
        normed: Tensor = (x * scale).mul_(weight)
        return normed.to(self.dtype)

    def _attend(
        self, qkv: Tensor, layer: _Layer, number: int, turns: Tensor, plan: Plan, pool: KVPool, *, out: Tensor
    ) -> None:
        s = self.shape
        heads = qkv.view(-1, s.heads + 2 * s.kv_heads, s.head_dim)
        turned = heads[:, : s.heads + s.kv_heads].float()  # the same memory where it is fp32 already
        if layer.qk_norm is not None:
            turned = functional.rms_norm(turned, (s.head_dim,), None, s.eps).mul_(layer.qk_norm)
        torch.view_as_complex(turned.view(*turned.shape[:2], -1, 2)).mul_(turns)
        heads[:, s.heads : s.heads + s.kv_heads].copy_(turned[:, s.heads :])
        kv = heads[:, s.heads :].to(pool.dtype)
        if plan.prefix is not None:
            kv = kv.index_copy(0, plan.prefix.rows, plan.prefix.kv[number].to(kv.dtype))
        pool.store(number, plan.slots, kv)
        q = turned[:, : s.heads].view(-1, s.kv_heads, s.repeats, s.head_dim)
        attention.attend(q, kv, pool=pool, layer=number, plan=plan.groups, out=out)

    def _layer(self, checkpoint: Checkpoint, number: int) -> _Layer:
        s, prefix = self.shape, f"model.layers.{number}"
        linears = {}
        for part, names in PARTS.items():
            weights, biases = [], []
            for name in names:
                out, into = layer_shape(s, name)
                weight = checkpoint.take(f"{prefix}.{name}.weight", out, into)
                bias = checkpoint.take_optional(f"{prefix}.{name}.bias", out)
                weights.append(self._reordered(name, weight))
                biases.append(None if bias is None else self._reordered(name, bias))
            given = [bias for bias in biases if bias is not None]
            if given:
                given = [weights[i].new_zeros(len(weights[i])) if b is None else b for i, b in enumerate(biases)]
            fused = torch.cat(given).to(self.device) if given else None
            linears[part] = make_linear(torch.cat(weights).to(self.device), fused, precision=self.precision)
        return _Layer(
            self._vector(checkpoint, f"{prefix}.input_layernorm.weight", s.hidden),
            self._vector(checkpoint, f"{prefix}.post_attention_layernorm.weight", s.hidden),
            linears,
            self._qk_norm(checkpoint, prefix) if s.qk_norm else None,
        )

    def _qk_norm(self, checkpoint: Checkpoint, prefix: str) -> Tensor:
        s, order = self.shape, rotary_order(self.shape)
        q, k = (checkpoint.take(f"{prefix}.self_attn.{name}_norm.weight", s.head_dim)[order] for name in "qk")
        return torch.cat([q.expand(s.heads, -1), k.expand(s.kv_heads, -1)]).to(self.device, torch.float32)

    def _reordered(self, name: str, weight: Tensor) -> Tensor:
        return reorder_rotary(weight, self._order) if name in ("self_attn.q_proj", "self_attn.k_proj") else weight

    def _vector(self, checkpoint: Checkpoint, name: str, size: int) -> Tensor:
        return checkpoint.take(name, size).to(self.device, torch.float32)


def _linear(layer: _Layer, part: str, x: Tensor, number: int, additions: Additions | None) -> Tensor:
    out = layer.linears[part](x)
    if additions is not None:
        additions.add(out, x, layer=number, part=part)
    return out


def padded(rows: int) -> int:
    """Returns the number of rows that a pass over so many is filled up to.

    oneDNN compiles and keeps a kernel of about 1 MB for every number of rows
    that a layer meets, so few numbers keep the memory flat.
    """
    step = 1 if rows <= 8 else 4 if rows <= 32 else 16 if rows <= 128 else 32
    return -(-rows // step) * step


def layer_shape(shape: LlamaShape, name: str) -> tuple[int, int]:
    """Returns (out, in) of a linear layer of a decoder layer, by its name in the checkpoint."""
    attended, kept = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "self_attn.q_proj": (attended, shape.hidden),
        "self_attn.k_proj": (kept, shape.hidden),
        "self_attn.v_proj": (kept, shape.hidden),
        "self_attn.o_proj": (shape.hidden, attended),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }[name]


def rotary_order(shape: LlamaShape) -> Tensor:
    """Returns the order of a head's dimensions that puts each pair that is turned together side by side."""
    half = shape.head_dim // 2
    return torch.arange(shape.head_dim).view(2, half).t().flatten()


def reorder_rotary(weight: Tensor, order: Tensor) -> Tensor:
    """Returns the rows of a query or key projection with each head's dimensions in the given order."""
    heads = weight.view(len(weight) // len(order), len(order), *weight.shape[1:])
    return heads[:, order].reshape(weight.shape)


def _turns(shape: LlamaShape) -> Tensor:
    """Returns cos + i sin of every position and pair, (positions, head_dim / 2), computed as transformers does."""
    steps = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies = 1.0 / (shape.rope_theta**steps)
    if shape.rope_scaling is not None:
        frequencies = shape.rope_scaling.apply(frequencies)
    angles = torch.outer(torch.arange(shape.max_context, dtype=torch.float32), frequencies)
    return torch.complex(angles.cos(), angles.sin())
