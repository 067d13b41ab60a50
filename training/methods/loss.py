"""Computes the loss: on answer tokens only, with the vocabulary projection at those positions only.

What all prompts begin with (the system message) is run once per step and
shared by the rows of the batch. Both save more than half of a step on a
processor where questions are short.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tandem.scoring import mean
from training.methods.batches import Encoded

_IGNORE = -100


def summed_loss(model: Any, batch: Sequence[Encoded], prefix: int) -> tuple[Tensor, int]:
    """Returns the cross-entropy summed over the batch's target tokens, and their number.

    `model` is a causal language model or a PEFT model of one; `prefix` says how many tokens all prompts share.
    """
    logits, labels, _ = _answer_logits(model, batch, prefix)
    return nn.functional.cross_entropy(logits, labels, reduction="sum"), len(labels)


@torch.no_grad()
def held_out(model: Any, batch: Sequence[Encoded], prefix: int) -> tuple[float, int, list[bool]]:
    """Returns the same, and of each answer whether the model would give it word for word.

    Where each token of an answer is the likeliest after those before it, greedy decoding says that very answer.
    """
    logits, labels, rows = _answer_logits(model, batch, prefix)
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    missed = set(rows[logits.argmax(-1) != labels].tolist())
    return float(loss), len(labels), [row not in missed for row in range(len(batch))]


def share_exact(rows: Sequence[Encoded], exact: Sequence[bool]) -> float:
    """Returns the share of answers that were given word for word, as the mean over different answers.

    Who says the same to everything, an abstention or the most frequent class, gets no more for it than for one other.
    """
    given: dict[tuple[int, ...], list[bool]] = defaultdict(list)
    for row, right in zip(rows, exact, strict=True):
        given[row.target].append(right)
    return mean([mean(rights) for rights in given.values()])


def _answer_logits(model: Any, batch: Sequence[Encoded], prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits (N, V), labels (N) and rows of the batch (N) of its N answer tokens."""
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    device = causal.device
    tokens, labels = _rows(batch, prefix)
    cache = _cache(model, 1 if prefix else len(batch))
    if prefix:
        head = torch.tensor([batch[0].prompt[:prefix]], device=device)
        causal.base_model(input_ids=head, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch))
    # Rows are padded on the right: a causal model's real tokens never see the padding, so no mask is needed.
    hidden = causal.base_model(input_ids=tokens.to(device), past_key_values=cache, use_cache=True).last_hidden_state
    wanted = (labels != _IGNORE).to(device)
    labels = labels.to(device)[wanted]
    logits = causal.get_output_embeddings()(hidden[wanted])
    return logits.float(), labels, wanted.nonzero()[:, 0]


def _cache(model: Any, rows: int) -> Any:
    """Returns an empty cache, or one that holds the trained prefix for each row."""
    if hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning:
        return model.get_prompt(rows)
    return DynamicCache()


def _rows(batch: Sequence[Encoded], prefix: int) -> tuple[Tensor, Tensor]:
    """Returns tokens and labels, both (B, T) and padded on the right, without the shared prefix."""
    length = max(e.num_tokens for e in batch) - prefix
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), _IGNORE, dtype=torch.long)
    for row, example in enumerate(batch):
        own = example.prompt[prefix:] + example.target
        tokens[row, : len(own)] = torch.tensor(own)
        start = len(example.prompt) - prefix
        labels[row, start - 1 : start - 1 + len(example.target)] = torch.tensor(example.target)
    return tokens, labels
