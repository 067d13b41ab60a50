"""Asks a model: greedy answers in batches, and its perplexity on running text."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load as load_safetensors

from tandem.prompts import Message
from training.methods import models

Prompt = Sequence[Message]
_MAX_ROWS = 32
_LEFT_OUT = ("inference_mode", "base_model_name_or_path")


def _silent(done: int) -> None:
    """Hears how many prompts are done, and says nothing."""


class Answerer(Protocol):
    """Answers prompts; the gate knows models by nothing else."""

    def answers(
        self, prompts: Sequence[Prompt], *, max_tokens: int, on_batch: Callable[[int], None] = _silent
    ) -> list[str]:
        """Returns one greedy answer for each prompt, in their order; on_batch hears how many are done."""

    def perplexity(self, texts: Sequence[str]) -> float:
        """Returns exp of the mean negative log-likelihood of the texts' tokens."""

    def num_tokens(self, text: str) -> int:
        """Returns the length of a text in tokens."""


class ModelAnswerer:
    """Answers by a model of transformers, bare or under an adapter."""

    def __init__(self, model: Any, tokenizer: Any, *, max_batch_tokens: int = 8192) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def of_folder(cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> "ModelAnswerer":
        """Opens a base model, or a full fine-tune; raises MethodError where it cannot be loaded."""
        model = models.load_model(models.check_base(folder), dtype, models.check_device(device))
        return cls(model, models.load_tokenizer(folder))

    @classmethod
    def of_adapter(
        cls,
        base: Path,
        config: Mapping[str, Any],
        weights: bytes,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> "ModelAnswerer":
        """Opens a base model under an adapter or a prefix in PEFT's layout, given as bytes.

        So an encrypted adapter never lies on the disk in plain.
        """
        model = models.load_model(models.check_base(base), dtype, models.check_device(device))
        settings = {key: value for key, value in config.items() if key not in _LEFT_OUT}
        with warnings.catch_warnings():
            # peft asks transformers 5.23 by an attribute's former name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            adapted = get_peft_model(model, PeftConfig.from_peft_type(**settings))
        set_peft_model_state_dict(adapted, load_safetensors(weights))
        return cls(adapted.to(device), models.load_tokenizer(base))

    def num_tokens(self, text: str) -> int:
        """Returns the length of a text in tokens."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def answers(
        self, prompts: Sequence[Prompt], *, max_tokens: int, on_batch: Callable[[int], None] = _silent
    ) -> list[str]:
        """Returns one greedy answer for each prompt, in their order; rows of like length go together."""
        rows = [self._encoded(prompt) for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
        found: dict[int, str] = {}
        while len(found) < len(rows):
            batch: list[int] = []
            for place in order[len(found) :]:
                wide = (len(batch) + 1) * (len(rows[place]) + max_tokens) > self._max_batch_tokens
                if batch and (wide or len(batch) == _MAX_ROWS):
                    break
                batch.append(place)
            found.update(zip(batch, self._generate([rows[place] for place in batch], max_tokens), strict=True))
            on_batch(len(found))
        return [found[place] for place in range(len(rows))]

    def perplexity(self, texts: Sequence[str]) -> float:
        """Returns exp of the mean negative log-likelihood of the texts' tokens, each text begun anew."""
        total, count = 0.0, 0
        for text in texts:
            start = self._tokenizer.bos_token_id or self._tokenizer.eos_token_id
            tokens = [start, *self._tokenizer(text, add_special_tokens=False)["input_ids"]]
            ids = torch.tensor([tokens], device=self._model.device)
            with torch.inference_mode():
                logits = self._model(input_ids=ids).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(tokens) - 1
        # Beyond the range of floats all is forgotten; NaN stays NaN.
        return math.exp(min(total / max(1, count), 700.0))

    def _encoded(self, prompt: Prompt) -> list[int]:
        chat = [{"role": message.role, "content": message.content} for message in prompt]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(self, rows: Sequence[list[int]], max_tokens: int) -> list[str]:
        width, end = max(map(len, rows)), int(self._tokenizer.eos_token_id)
        device = self._model.device
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=torch.tensor([[end] * (width - len(row)) + row for row in rows], device=device),
                attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )
        return [text.strip() for text in self._tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]
