"""Chooses which waiting texts run together. Knows neither clocks nor threads nor models."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, TypeVar

T = TypeVar("T")

_WINDOW_BATCHES = 4
"""How many full batches' worth of waiting texts are looked through for texts of like length."""


@dataclass(frozen=True, eq=False, slots=True)
class Entry(Generic[T]):
    """Holds one waiting text. Equal only to itself."""

    lane: Hashable
    num_tokens: int
    payload: T


class BatchQueue(Generic[T]):
    """Keeps one lane of waiting texts for each call and cuts batches from them.

    Every batch is built around its anchor: the oldest text of the call whose turn it is. Calls take turns, so a single
    query waits for at most one batch of each call before it, however many texts those calls brought. The anchor is
    joined by texts of like length from the front of the queue: cost grows with padded tokens, so a short text gains
    nothing from a batch of long ones and would only wait for them.

    Bounds batches, not itself: admission is the engine's.
    """

    def __init__(self, *, max_tokens: int, max_texts: int) -> None:
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._lanes: OrderedDict[Hashable, list[Entry[T]]] = OrderedDict()
        self._num_texts = 0

    def __len__(self) -> int:
        """Returns the number of waiting texts."""
        return self._num_texts

    def push(self, lane: Hashable, entries: Iterable[tuple[int, T]]) -> None:
        """Appends (num_tokens, payload) pairs to a lane; a lane that was empty takes the last turn."""
        added = [Entry(lane, num_tokens, payload) for num_tokens, payload in entries]
        if added:
            self._lanes.setdefault(lane, []).extend(added)
            self._num_texts += len(added)

    def discard(self, lane: Hashable) -> None:
        """Drops what waits in a lane; nothing if it is empty."""
        self._num_texts -= len(self._lanes.pop(lane, ()))

    def take(self) -> list[Entry[T]]:
        """Removes and returns the next batch; empty when nothing waits.

        Keeps ``max_texts``, and ``max_tokens`` counted with padding; a text longer than ``max_tokens`` runs alone.
        """
        if not self._lanes:
            return []
        turn = next(iter(self._lanes))
        batch = self._choose()
        self._remove(batch)
        if turn in self._lanes:
            self._lanes.move_to_end(turn)
        return batch

    def _choose(self) -> list[Entry[T]]:
        waiting = chain.from_iterable(self._lanes.values())
        window = list(islice(waiting, _WINDOW_BATCHES * self._max_texts))
        anchor = window[0].num_tokens
        window.sort(key=lambda entry: abs(entry.num_tokens - anchor))  # stable: the anchor stays first
        batch: list[Entry[T]] = []
        longest = 0
        for entry in window:
            if len(batch) == self._max_texts or not _alike(anchor, entry.num_tokens):
                break
            padded = max(longest, entry.num_tokens) * (len(batch) + 1)
            if batch and padded > self._max_tokens:
                continue  # a shorter one may still fit
            batch.append(entry)
            longest = max(longest, entry.num_tokens)
        return batch

    def _remove(self, batch: list[Entry[T]]) -> None:
        taken = set(batch)
        for lane in {entry.lane for entry in batch}:
            rest = [entry for entry in self._lanes[lane] if entry not in taken]
            if rest:
                self._lanes[lane] = rest
            else:
                del self._lanes[lane]
        self._num_texts -= len(batch)


def _alike(anchor: int, num_tokens: int) -> bool:
    """Tells whether two texts may share a batch: lengths at most 16 tokens or a quarter of the anchor apart."""
    return abs(num_tokens - anchor) <= max(16, anchor // 4)
