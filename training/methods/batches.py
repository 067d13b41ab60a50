"""Turns examples into token ids, and token ids into the batches of a whole run, decided before it starts.

A run is a list of batches that follows from the examples, the method and its
seed alone. So a run that was cut off goes on with exactly the batch that the
uninterrupted run would have taken next.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.examples import Example
from training.methods.plan import Method, MethodError

_POOL = 16


@dataclass(frozen=True)
class Encoded:
    """Is one prompt with the answer to learn, as token ids; the target ends with the end-of-turn token."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Returns the length of both together."""
        return len(self.prompt) + len(self.target)


def encode(tokenizer: Any, example: Example) -> Encoded:
    """Returns the example as serving will render it: the chat template, the assistant's turn begun, then the answer."""
    chat = [{"role": message.role, "content": message.content} for message in example.messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    target = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    return Encoded(tuple(prompt), (*target, tokenizer.eos_token_id))


def encode_all(tokenizer: Any, examples: Sequence[Example], *, max_tokens: int) -> list[Encoded]:
    """Returns the examples encoded; raises MethodError where some are longer than max_tokens, and names them."""
    encoded = [encode(tokenizer, example) for example in examples]
    long = [(found.num_tokens, row.id) for found, row in zip(encoded, examples, strict=True)]
    long = [(length, name) for length, name in long if length > max_tokens]
    if long:
        named = ", ".join(f"{name} ({length})" for length, name in long[:5])
        raise MethodError(
            f"{len(long)} of {len(examples)} examples are longer than {max_tokens} tokens: {named}"
            f"{', ...' if len(long) > 5 else ''}; shorten them, or take a base model with a longer context"
        )
    return encoded


def shared_prefix(examples: Sequence[Encoded]) -> int:
    """Returns how many tokens all prompts have in common at their start, leaving each at least one of its own."""
    first, last = min(e.prompt for e in examples), max(e.prompt for e in examples)
    limit = min(len(e.prompt) for e in examples) - 1
    same = 0
    while same < limit and first[same] == last[same]:
        same += 1
    return same


def schedule(examples: Sequence[Encoded], method: Method) -> list[list[int]]:
    """Returns the batches of the whole run as indices of examples: whole epochs, the last of them cut to its share."""
    rng = random.Random(method.seed)  # noqa: S311  (order of batches)
    steps: list[list[int]] = []
    whole = math.floor(method.epochs)
    for _ in range(whole):
        steps += _epoch(examples, method, rng)
    if method.epochs > whole:
        last = _epoch(examples, method, rng)
        steps += last[: max(1, round(len(last) * (method.epochs - whole)))]
    return steps


def by_length(examples: Sequence[Encoded], method: Method) -> list[list[int]]:
    """Returns batches over every example once, like lengths together, in no random order."""
    return _packed(sorted(range(len(examples)), key=lambda index: examples[index].num_tokens), examples, method)


def _epoch(examples: Sequence[Encoded], method: Method, rng: random.Random) -> list[list[int]]:
    """Returns one epoch's batches: rows of like length together, in random order."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    pool = method.max_batch_rows * _POOL
    ready: list[list[int]] = []
    for start in range(0, len(order), pool):
        some = sorted(order[start : start + pool], key=lambda index: examples[index].num_tokens)
        ready += _packed(some, examples, method)
    rng.shuffle(ready)
    return ready


def _packed(order: Sequence[int], examples: Sequence[Encoded], method: Method) -> list[list[int]]:
    """Returns batches of neighbours within the limits on rows and tokens; a longer example is a batch of its own."""
    ready: list[list[int]] = []
    batch: list[int] = []
    for index in order:
        longest = examples[index].num_tokens
        full = len(batch) == method.max_batch_rows or (len(batch) + 1) * longest > method.max_batch_tokens
        if batch and full:
            ready.append(batch)
            batch = []
        batch.append(index)
    if batch:
        ready.append(batch)
    return ready


def evenly(examples: Sequence[Example], most: int) -> list[Example]:
    """Returns at most so many of the examples, evenly drawn from their order."""
    if len(examples) <= most:
        return list(examples)
    return [examples[index * len(examples) // most] for index in range(most)]
