"""Chooses which waiting texts run together. Knows neither clocks nor threads nor models."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
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


@dataclass(eq=False, slots=True)
class _Lane(Generic[T]):
    tag: float
    """Virtual time up to which the call has had its share; the smallest is next."""
    entries: list[Entry[T]] = field(default_factory=list)


class BatchQueue(Generic[T]):
    """Keeps one lane of waiting texts for each call and cuts batches from them.

    Every batch is built around its anchor: the oldest text of the call that has had the least. Shares are counted in
    tokens by start-time fair queueing (Goyal, Vin and Cheng, 1996): a new call starts at the virtual time of the batch
    that runs, so a single query goes before the rest of a long call, and calls that keep coming cannot starve it. The
    anchor is joined by texts of like length from the front of the queue: cost grows with padded tokens, so a short
    text gains nothing from a batch of long ones and would only wait for them.

    Bounds batches, not itself: admission is the engine's. A lane lives from its first ``push`` to ``discard``.
    """

    def __init__(self, *, max_tokens: int, max_texts: int) -> None:
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._num_texts = 0
        self._virtual_time = 0.0
        self._running_share = 0.0
        """Virtual time that the batch cut last takes; it passes when that batch has ended, at the next ``take``."""

    def __len__(self) -> int:
        """Returns the number of waiting texts."""
        return self._num_texts

    def push(self, key: Hashable, texts: Iterable[tuple[int, T]]) -> None:
        """Appends (num_tokens, payload) pairs to a lane."""
        lane = self._lanes.setdefault(key, _Lane(self._virtual_time))
        if not lane.entries:
            lane.tag = max(lane.tag, self._virtual_time)  # time in which a call asked for nothing is not saved up
        added = [Entry(key, num_tokens, payload) for num_tokens, payload in texts]
        lane.entries.extend(added)
        self._num_texts += len(added)

    def discard(self, key: Hashable) -> None:
        """Forgets a lane and drops what waits in it; nothing if there is none."""
        if lane := self._lanes.pop(key, None):
            self._num_texts -= len(lane.entries)

    def take(self) -> list[Entry[T]]:
        """Removes and returns the next batch; empty when nothing waits. The batch before it counts as ended.

        Keeps ``max_texts``, and ``max_tokens`` counted with padding; a text longer than ``max_tokens`` runs alone.
        """
        self._virtual_time += self._running_share
        self._running_share = 0.0
        waiting = sorted((lane for lane in self._lanes.values() if lane.entries), key=lambda lane: lane.tag)
        if not waiting:
            return []
        batch = self._choose(waiting)
        self._remove(batch)
        self._running_share = sum(entry.num_tokens for entry in batch) / len(waiting)
        return batch

    def _choose(self, lanes: list[_Lane[T]]) -> list[Entry[T]]:
        waiting = chain.from_iterable(lane.entries for lane in lanes)
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
        for key in {entry.lane for entry in batch}:
            lane = self._lanes[key]
            lane.tag += sum(entry.num_tokens for entry in lane.entries if entry in taken)
            lane.entries = [entry for entry in lane.entries if entry not in taken]
        self._num_texts -= len(batch)


def _alike(anchor: int, num_tokens: int) -> bool:
    """Tells whether two texts may share a batch: lengths at most 16 tokens or a quarter of the anchor apart."""
    return abs(num_tokens - anchor) <= max(16, anchor // 4)
