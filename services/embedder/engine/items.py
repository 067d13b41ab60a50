"""What waits in a pipeline: calls, their texts or pairs, and what is asked of them on the way."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.embedder.domain import Computed, ModelInfo, TokenizedText
from services.embedder.engine.batching import Entry
from tandem.errors import FieldViolation, InvalidInput

R = TypeVar("R")

_FEW_CHARACTERS = 512


@dataclass(eq=False, slots=True)
class Call:
    """Is one RPC's place in the queue."""

    held: int = 0
    """Tokens that the call holds in admission: its inputs that are being tokenised or wait for a batch."""


@dataclass(eq=False, slots=True)
class Item(Generic[R]):
    """Is one text or pair on its way to its result."""

    call: Call
    tokens: TokenizedText
    tokenize_seconds: float
    enqueued: float
    result: asyncio.Future[Computed[R]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def without_repeats(tokens: Sequence[TokenizedText]) -> tuple[list[TokenizedText], list[int]]:
    """Returns each different input once, and for each input the place of its equal among them."""
    places: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    batch: list[TokenizedText] = []
    found = []
    for each in tokens:
        place = places.setdefault((tuple(each.ids), tuple(each.types)), len(batch))
        if place == len(batch):
            batch.append(each)
        found.append(place)
    return batch, found


def demand(info: ModelInfo, inputs: Sequence[str] | Sequence[tuple[str, str]]) -> int:
    """Guesses the tokens of inputs before they are tokenised: about one for each character is the worst case."""
    return sum(min(info.max_tokens, length + 2) for length in _lengths(inputs))


def are_short(inputs: Sequence[str] | Sequence[tuple[str, str]]) -> bool:
    """Tells whether the inputs are tokenised in less time than it takes to wake a thread for it."""
    return len(inputs) + sum(_lengths(inputs)) <= _FEW_CHARACTERS


def _lengths(inputs: Sequence[str] | Sequence[tuple[str, str]]) -> Iterator[int]:
    return (len(each) if isinstance(each, str) else len(each[0]) + len(each[1]) + 1 for each in inputs)


def refuse_long(tokenized: Sequence[TokenizedText], fields: Sequence[str], info: ModelInfo) -> None:
    """Raises InvalidInput where an input had to be cut; ``fields`` names each."""
    violations = [
        FieldViolation(name, f"is longer than the {info.max_tokens} tokens that the model reads")
        for name, tokens in zip(fields, tokenized, strict=True)
        if tokens.truncated
    ]
    if violations:
        raise InvalidInput(f"{len(violations)} of {len(tokenized)} texts are too long for the model", violations)


def fail(entries: Sequence[Entry[Item[R]]], error: Callable[[], Exception]) -> None:
    """Ends every item that has no result yet with an error of its own."""
    for entry in entries:
        if not entry.payload.result.done():
            entry.payload.result.set_exception(error())
            entry.payload.result.exception()  # a stream that has already failed asks no more
