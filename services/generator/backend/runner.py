"""Runs a Hugging Face causal language model for the engine: one padded batch that rows join and leave."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from services.generator.backend.lora import AdapterBank
from services.generator.backend.sampling import RowState, choose
from services.generator.domain import Choice, Row

log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchRunner:
    """Keeps keys and values of all running rows in one cache, padded on the left.

    Positions are given explicitly and padding is masked, so a row computes
    the same thing in every batch, up to rounding.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model.eval()
        self.bank = AdapterBank(model)
        self._states: list[RowState] = []
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)

    @property
    def precision(self) -> str:
        """Returns the number format of the weights, for example "bfloat16"."""
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def max_context_tokens(self) -> int:
        """Returns the most tokens of prompt and output together."""
        return int(self._model.config.max_position_embeddings)

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row]) -> Mapping[int, Choice]:
        """Reads the prompts, adds the rows to the running ones, and returns the first token of each."""
        width = max(len(row.prompt) for row in rows)
        tokens = torch.tensor([[0] * (width - len(row.prompt)) + list(row.prompt) for row in rows])
        mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        cache, states = DynamicCache(), [RowState.of(row) for row in rows]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(tokens, mask=mask, positions=positions, cache=cache, states=states)
        choices = choose(logits, states)
        self._join(cache, mask.to(self._mask), states)
        return {row.id: choice for row, choice in zip(rows, choices, strict=True)}

    @torch.inference_mode()
    def step(self) -> Mapping[int, Choice]:
        """Returns the next token of every running row."""
        states = self._states
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(states), 1)], dim=1)
        tokens = torch.tensor([[state.last] for state in states])
        positions = torch.tensor([[state.position] for state in states])
        logits = self._forward(tokens, mask=self._mask, positions=positions, cache=self._cache, states=states)
        for state in states:
            state.position += 1
        return {state.row.id: choice for state, choice in zip(states, choose(logits, states), strict=True)}

    @torch.inference_mode()
    def remove(self, ids: Collection[int]) -> None:
        """Lets rows go, and with them the padding that only they needed."""
        kept = [index for index, state in enumerate(self._states) if state.row.id not in ids]
        if len(kept) == len(self._states):
            return
        self._states = [self._states[index] for index in kept]
        if not kept:
            self._cache, self._mask = DynamicCache(), self._mask.new_zeros(0, 0)
            return
        index = torch.tensor(kept, device=self._mask.device)
        self._mask = self._mask[index]
        spare = int((self._mask.cumsum(1) == 0).sum(1).min())
        self._mask = self._mask[:, spare:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[index, :, spare:].contiguous()
            layer.values = layer.values[index, :, spare:].contiguous()

    def _forward(
        self, tokens: Tensor, *, mask: Tensor, positions: Tensor, cache: DynamicCache, states: Sequence[RowState]
    ) -> Tensor:
        """Returns the logits after the last token of each row, (B, V)."""
        device = self._model.device
        self.bank.rows.set([state.row.adapter_key for state in states])
        out = self._model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _join(self, cache: DynamicCache, mask: Tensor, states: list[RowState]) -> None:
        if not self._states:
            self._cache, self._mask, self._states = cache, mask, list(states)
            return
        width = max(mask.shape[1], self._mask.shape[1])
        self._mask = torch.cat([_pad(self._mask, width, dim=1), _pad(mask, width, dim=1)])
        for mine, fresh in zip(self._cache.layers, cache.layers, strict=True):
            mine.keys = torch.cat([_pad(mine.keys, width, dim=2), _pad(fresh.keys, width, dim=2)])
            mine.values = torch.cat([_pad(mine.values, width, dim=2), _pad(fresh.values, width, dim=2)])
        self._states += states


def _pad(tensor: Tensor, width: int, *, dim: int) -> Tensor:
    """Fills with zeros at the front of dimension `dim` up to `width`."""
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def load_runner(folder: Path, *, precision: str, device: str, threads: int) -> TorchRunner:
    """Loads the model of a folder; `precision` is fp32, bf16 or auto."""
    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    dtype = _DTYPES[precision if precision != "auto" else best_precision(device)]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return TorchRunner(model.to(device))


def best_precision(device: str) -> str:
    """Returns bf16 on a GPU and on processors with bf16 instructions, else fp32."""
    if device != "cpu":
        return "bf16"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else "fp32"
