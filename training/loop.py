"""The training loop: examples in, an adapter out.

Loss falls on answer tokens only, and the vocabulary projection is computed at
those positions only. What all prompts of a recipe begin with (the system
message) is run once per step and shared by the rows of the batch.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from training import lora

_IGNORE = -100


@dataclass(frozen=True)
class Example:
    """Is one prompt with the answer to learn, as token ids; the target ends with the end-of-turn token."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Returns the length of both together."""
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Says how to train; goes into training.json."""

    epochs: float
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    final_learning_rate_share: float = 0.05
    weight_decay: float = 0.0
    max_batch_tokens: int = 768
    max_batch_rows: int = 16
    clip_norm: float = 1.0
    seed: int = 17
    max_minutes: float = 90.0


@dataclass(frozen=True)
class Progress:
    """Tells where training stands; loss is a moving mean over about 20 steps."""

    step: int
    num_steps: int
    loss: float
    tokens_per_second: float


def shared_prefix(examples: Sequence[Example]) -> int:
    """Returns how many tokens all prompts have in common at their start, leaving each at least one of its own."""
    first, last = min(e.prompt for e in examples), max(e.prompt for e in examples)
    limit = min(len(e.prompt) for e in examples) - 1
    same = 0
    while same < limit and first[same] == last[same]:
        same += 1
    return same


def batches(examples: Sequence[Example], plan: Plan, rng: random.Random) -> Iterator[list[Example]]:
    """Yields the batches of one epoch: rows of like length together, in random order."""
    shuffled = list(examples)
    rng.shuffle(shuffled)
    pool = plan.max_batch_rows * 16
    ready: list[list[Example]] = []
    for start in range(0, len(shuffled), pool):
        batch: list[Example] = []
        for example in sorted(shuffled[start : start + pool], key=lambda e: e.num_tokens):
            if batch and (
                len(batch) == plan.max_batch_rows or (len(batch) + 1) * example.num_tokens > plan.max_batch_tokens
            ):
                ready.append(batch)
                batch = []
            batch.append(example)
        ready.append(batch)
    rng.shuffle(ready)
    yield from ready


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    plan: Plan,
    *,
    on_step: Callable[[Progress], None],
) -> Progress:
    """Trains the attached adapter in place; stops after plan.epochs or plan.max_minutes, with the rate wound down.

    The rate follows whichever of the two budgets is used up further, so that
    a slow machine ends with a finished schedule and fewer epochs.
    """
    rng = random.Random(plan.seed)  # noqa: S311  (order of batches)
    weights = lora.trained(model)
    optimiser = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99))
    prefix = shared_prefix(examples)
    per_epoch = sum(1 for _ in batches(examples, plan, random.Random(0)))  # noqa: S311  (a count)
    num_steps = max(1, round(per_epoch * plan.epochs))
    started, tokens, step, loss_mean = time.monotonic(), 0, 0, math.nan
    progress = Progress(0, num_steps, math.nan, 0.0)
    model.train()
    while True:
        for batch in batches(examples, plan, rng):
            minutes = (time.monotonic() - started) / 60
            share = max(step / num_steps, minutes / plan.max_minutes)
            if share >= 1:
                return progress
            _set_rate(optimiser, plan, step, share)
            loss = batch_loss(model, batch, prefix)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, plan.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            tokens += sum(e.num_tokens for e in batch) - prefix * (len(batch) - 1)
            value = float(loss.detach())
            loss_mean = value if math.isnan(loss_mean) else 0.95 * loss_mean + 0.05 * value
            progress = Progress(step, num_steps, loss_mean, tokens / (time.monotonic() - started))
            on_step(progress)


def _set_rate(optimiser: torch.optim.Optimizer, plan: Plan, step: int, share: float) -> None:
    floor = plan.final_learning_rate_share
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    for group in optimiser.param_groups:
        group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warmup_steps) * cosine


def batch_loss(model: PreTrainedModel, batch: Sequence[Example], prefix: int) -> Tensor:
    """Returns the mean cross-entropy over the batch's target tokens."""
    device = model.device
    length = max(e.num_tokens for e in batch) - prefix
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), _IGNORE, dtype=torch.long)
    for row, example in enumerate(batch):
        own = example.prompt[prefix:] + example.target
        tokens[row, : len(own)] = torch.tensor(own)
        start = len(example.prompt) - prefix
        labels[row, start - 1 : start - 1 + len(example.target)] = torch.tensor(example.target)
    cache = DynamicCache()
    if prefix:
        head = torch.tensor([batch[0].prompt[:prefix]], device=device)
        model.base_model(input_ids=head, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch))
    # Rows are padded on the right: a causal model's real tokens never see the padding, so no mask is needed.
    hidden = model.base_model(input_ids=tokens.to(device), past_key_values=cache, use_cache=True).last_hidden_state
    wanted = labels != _IGNORE
    logits = model.get_output_embeddings()(hidden[wanted.to(device)])
    return nn.functional.cross_entropy(logits.float(), labels[wanted].to(device))
