"""Runs any causal language model that transformers knows: one stream at a time, slowly, behind the same port."""

import inspect
import threading
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from services.generator.backend.lora import MissingAdapters, read_weights
from services.generator.backend.sampling import choose, score
from services.generator.domain import Adapter, NotLoaded, Step, StepResult, TokenScore, Work


class TransformersRunner:
    """Keeps a cache of keys and values for each stream; blocks are only counted, so none is shared."""

    shares_blocks = False

    def __init__(self, model: PreTrainedModel, *, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.adapters = HookedAdapters(model)
        self._model = model.eval()
        self._caches: dict[int, DynamicCache] = {}
        # Without it a model returns the logits of every position.
        self._trims = "logits_to_keep" in inspect.signature(model.forward).parameters

    def release(self, streams: Collection[int]) -> None:
        """Drops the caches of streams."""
        for stream in streams:
            self._caches.pop(stream, None)

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Computes one step; raises NotFinite where a draw or a target meets logits that are no numbers, NotLoaded."""
        try:
            return self._run(step)
        except MissingAdapters as missing:
            self.release([work.stream for work in step.works])
            raise NotLoaded([i for i, work in enumerate(step.works) if work.adapter in missing.keys]) from missing
        except BaseException:
            self.release([work.stream for work in step.works])
            raise

    def _run(self, step: Step) -> StepResult:
        last: list[Tensor] = []
        scores: dict[int, tuple[TokenScore, ...]] = {}
        for index, work in enumerate(step.works):
            logits = self._read(work)
            last.append(logits[-1])
            if work.targets:
                logits = logits[-len(work.targets) :]
                scores[index] = tuple(score(logits, work.targets, works=[index] * len(work.targets)))
        if not step.draws:
            return StepResult({}, scores)
        rows = torch.stack([last[index] for draw in step.draws for index in draw.works])
        found = choose(rows, step.draws)
        return StepResult({d.sequence: choice for d, choice in zip(step.draws, found, strict=True)}, scores)

    def _read(self, work: Work) -> Tensor:
        """Reads a work's tokens and returns logits (n, V) of its last positions, at least those that are needed."""
        if work.start == 0:
            self._caches[work.stream] = DynamicCache(config=self._model.config)
        cache = self._caches[work.stream]
        if cache.get_seq_length() != work.start:
            raise ValueError(f"stream {work.stream} has {cache.get_seq_length()} positions, not {work.start}")
        kwargs: dict[str, Any] = {"logits_to_keep": max(1, len(work.targets))} if self._trims else {}
        tokens = torch.tensor([list(work.tokens)], device=self._model.device)
        with self.adapters.using(work.adapter):
            out = self._model(input_ids=tokens, past_key_values=cache, use_cache=True, **kwargs)
        if cache.get_seq_length() != work.start + len(work.tokens):
            raise ValueError("the model keeps no keys and values as transformers' DynamicCache holds them")
        logits: Tensor = out.logits[0]
        return logits


class HookedAdapters:
    """Holds the adapters of a transformers model; one at a time takes part, through hooks on the layers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._parts: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        self._hooked: set[str] = set()
        self._lock = threading.Lock()
        self._current: dict[str, tuple[Tensor, Tensor]] = {}
        head = model.get_output_embeddings()
        self._linears = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Returns the layers that adapters may touch: name -> (out, in). The vocabulary projection is none of them."""
        return {name: (module.out_features, module.in_features) for name, module in self._linears.items()}

    def load(self, adapter: Adapter) -> None:
        """Reads the weights of an adapter; does nothing if they are there. Raises as the port says."""
        if adapter.key in self._parts:
            return
        if adapter.num_virtual:
            raise ValueError("the transformers runner serves no prefixes")
        parts = {}
        for name, (a, b) in read_weights(adapter).items():
            linear = self._linears.get(name)
            if linear is None or a.shape[1] != linear.in_features or b.shape != (linear.out_features, len(a)):
                raise ValueError(f"the model has no layer {name} of the adapter's shape")
            parts[name] = (a.to(linear.weight), b.to(linear.weight))
        with self._lock:
            for name in parts.keys() - self._hooked:
                self._linears[name].register_forward_hook(partial(self._add, name))
                self._hooked.add(name)
            self._parts[adapter.key] = parts

    def unload(self, key: str) -> None:
        """Drops the weights of an adapter."""
        with self._lock:
            self._parts.pop(key, None)

    def using(self, key: str | None) -> "_Using":
        """Returns a context in which the model computes with an adapter, or without any; raises MissingAdapters."""
        parts = {} if key is None else self._parts.get(key)
        if parts is None:
            raise MissingAdapters([key])
        return _Using(self, parts)

    def _add(self, name: str, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        part = self._current.get(name)
        if part is None:
            return out
        return out + nn.functional.linear(nn.functional.linear(args[0], part[0]), part[1])


class _Using:
    def __init__(self, adapters: HookedAdapters, parts: dict[str, tuple[Tensor, Tensor]]) -> None:
        self._adapters = adapters
        self._parts = parts

    def __enter__(self) -> None:
        self._adapters._current = self._parts

    def __exit__(self, *_: object) -> None:
        self._adapters._current = {}


def load_model(folder: Path, *, precision: str, device: str) -> PreTrainedModel:
    """Loads the causal language model of a folder in fp32 or bf16."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.to(device)
