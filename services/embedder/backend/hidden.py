"""Computes token vectors with torch: BERT on a CPU without padding, everything else as transformers does it."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from services.embedder.backend.folder import ModelFolder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MAX_SCORES = 1 << 20
"""Attention scores computed at once: what fits a core's cache."""
_FEW_TOKENS = 32
"""So few attend soonest in one call."""


@dataclass(frozen=True)
class Group:
    """Holds the token vectors of some rows of a batch."""

    places: Sequence[int]
    """Where the rows were in the batch."""
    lengths: Sequence[int]
    vectors: Tensor
    """(rows, T, D) in fp32; beyond a row's length they mean nothing."""

    def mean(self) -> Tensor:
        """Returns the mean of each row's token vectors, (rows, D)."""
        length = self.vectors.shape[1]
        if all(each == length for each in self.lengths):
            return self.vectors.mean(1)
        lengths = torch.tensor(self.lengths, device=self.vectors.device)  # (rows,)
        mask = torch.arange(length, device=self.vectors.device) < lengths[:, None]  # (rows, T)
        return (self.vectors * mask[:, :, None]).sum(1) / lengths[:, None]


class Hidden(Protocol):
    """Turns rows of token ids into token vectors."""

    pads: bool
    dimension: int

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[Group]:
        """Returns the vectors of the last layer, every row in one group."""


class Padded:
    """Runs any model that transformers knows; shorter rows are padded to the longest."""

    pads = True

    def __init__(self, model: PreTrainedModel, *, pad_token_id: int, device: torch.device) -> None:
        self.dimension = int(model.config.hidden_size)
        self._model = model.to(device)
        self._pad = pad_token_id
        self._device = device

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[Group]:
        """Returns one group."""
        ids, mask = pad(rows, self._pad)
        hidden = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).last_hidden_state
        return [Group(range(len(rows)), [len(row) for row in rows], hidden.float())]


class _Linear:
    """Is a linear layer on weights in oneDNN's own layout."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
        self._bias = bias.to(dtype)
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._run(x, self._weight, self._bias, "none", [], "")
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """Returns GELU of the layer's output."""
        out: Tensor = self._run(x, self._weight, self._bias, "gelu", [], "none")
        return out


class Bert:
    """Runs a BERT without padding: the texts' tokens stand one after the other, and texts of one length attend at once.

    Weights are kept in the layout in which oneDNN multiplies fastest. The residual stays in fp32 in both precisions.
    """

    pads = False

    def __init__(self, model: Any, precision: str) -> None:
        config, dtype = model.config, DTYPES[precision]
        self._heads, self.dimension = int(config.num_attention_heads), int(config.hidden_size)
        self._dtype, self._eps = dtype, float(config.layer_norm_eps)
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        self._positions = (
            embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        ).detach()  # every text is of the first type
        self._embedded = embeddings.LayerNorm
        self._of_thread = threading.local()
        self._layers = [self._layer(layer) for layer in model.encoder.layer]

    def _layer(self, layer: Any) -> tuple[_Linear, _Linear, Any, _Linear, _Linear, Any]:
        attention = layer.attention.self
        # The query's share of the scale, folded into its weights.
        scale = (self.dimension // self._heads) ** -0.5
        weight = torch.cat([attention.query.weight * scale, attention.key.weight, attention.value.weight])
        bias = torch.cat([attention.query.bias * scale, attention.key.bias, attention.value.bias])

        def linear(module: Any) -> _Linear:
            return _Linear(module.weight.detach(), module.bias.detach(), self._dtype)

        return (
            _Linear(weight.detach(), bias.detach(), self._dtype),
            linear(layer.attention.output.dense),
            layer.attention.output.LayerNorm,
            linear(layer.intermediate.dense),
            linear(layer.output.dense),
            layer.output.LayerNorm,
        )

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[Group]:
        """Returns one group for each length."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            by_length[len(row)].append(place)
        # Lists are built in Python: a short text is done sooner with fewer calls of torch.
        order = [rows[place] for places in by_length.values() for place in places]
        ids = torch.tensor([token for row in order for token in row])
        at = torch.tensor([number for row in order for number in range(len(row))])
        shapes = [(len(places), length) for length, places in by_length.items()]
        flat = self._run(ids, at, shapes)
        parts = torch.split(flat, [rows * length for rows, length in shapes])
        return [
            Group(places, [length] * len(places), part.view(len(places), length, self.dimension))
            for (length, places), part in zip(by_length.items(), parts, strict=True)
        ]

    def _run(self, ids: Tensor, at: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        words, positions = torch.embedding(self._words, ids), torch.embedding(self._positions, at)
        x = self._norm(self._embedded, words.add_(positions))  # (tokens, D)
        for qkv, out, after_attention, up, down, after_all in self._layers:
            attended = self._attend(qkv(x.to(self._dtype)), shapes)
            x = self._norm(after_attention, x.add_(out(attended)))
            x = self._norm(after_all, x.add_(down(up.gelu(x.to(self._dtype)))))
        return x

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        return torch.layer_norm(x, (self.dimension,), norm.weight, norm.bias, self._eps)

    def _attend(self, qkv: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        heads, size = self._heads, self.dimension // self._heads
        out = qkv.new_empty(qkv.shape[0], self.dimension)
        at = 0
        for rows, length in shapes:
            step = max(1, _MAX_SCORES // (heads * length * length))
            for first in range(0, rows, step):
                n = min(step, rows - first)
                end = at + n * length
                split = qkv[at:end].view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4)  # (3, n, heads, T, size)
                mixed = self._mix(*split.unbind())
                out[at:end].view(n, length, heads, size).copy_(mixed.transpose(1, 2))
                at = end
        return out

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns each token's share of the values, (n, heads, T, size); the query is scaled already, see _layer."""
        n, heads, length, _ = query.shape
        if self._dtype == torch.float32 or n * length <= _FEW_TOKENS:
            return functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        # torch's fused kernel takes twice as long in bf16 with heads as small as these.
        scores, weights = self._room(n * heads, length)
        torch.bmm(query.reshape(n * heads, length, -1), key.reshape(n * heads, length, -1).transpose(1, 2), out=scores)
        torch.softmax(scores, -1, dtype=torch.float32, out=weights)
        mixed = torch.bmm(scores.copy_(weights), value.reshape(n * heads, length, -1))
        return mixed.view(n, heads, length, -1)

    def _room(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Returns memory of the calling thread for scores (rows, T, T) in both formats."""
        size = rows * length * length
        if getattr(self._of_thread, "size", 0) < size:
            self._of_thread.size = max(size, _MAX_SCORES)
            self._of_thread.room = [torch.empty(self._of_thread.size, dtype=d) for d in (self._dtype, torch.float32)]
        narrow, wide = (each[:size].view(rows, length, length) for each in self._of_thread.room)
        return narrow, wide


def load_hidden(folder: ModelFolder, *, precision: str, device: str) -> Hidden:
    """Loads the folder's weights and returns the fastest way to run them."""
    model: PreTrainedModel = AutoModel.from_pretrained(
        folder.weights, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()
    if device == "cpu" and torch.backends.mkldnn.is_available() and _is_plain_bert(model.config):  # type: ignore[no-untyped-call]
        return Bert(model, precision)
    return Padded(model.to(DTYPES[precision]), pad_token_id=folder.pad_token_id, device=torch.device(device))


def pad(rows: Sequence[Sequence[int]], token: int, *, length: int = 0) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, both (rows, T), where T is the longest row, or ``length`` where that is more."""
    length = max(length, *(len(row) for row in rows))
    ids = torch.tensor([[*row, *([token] * (length - len(row)))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(length) < lengths[:, None]).long()


def _is_plain_bert(config: Any) -> bool:
    return (
        config.model_type == "bert"
        and config.hidden_act == "gelu"
        and not getattr(config, "is_decoder", False)
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
    )
