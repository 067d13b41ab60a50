"""Finds texts that nearly repeat each other, so that no test asks what training showed.

Candidates come from MinHash with locality-sensitive hashing (Broder 1997, datasketch); each is then held against the
exact Jaccard similarity of its character 5-grams, so nothing is joined by chance.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRAM = 5
_NUM_PERM = 128
_MAX_CANDIDATES = 100
_MAX_KEPT = 100
"""Texts of one cluster that later ones are compared with."""
_MAX_CACHED = 2**24
"""N-grams that are kept at hand: 64 MiB."""
_BATCH = 4096
Grams = NDArray[np.uint32]
_ESTIMATE_ERROR = 0.15
"""About four standard deviations of a similarity that 128 permutations estimate."""
_NOT_WORD = re.compile(r"[\W_]+")


class Union:
    """Joins items into clusters (disjoint sets)."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def find(self, item: int) -> int:
        """Returns the cluster's name: its smallest item."""
        while self._parents[item] != item:
            self._parents[item] = self._parents[self._parents[item]]
            item = self._parents[item]
        return item

    def join(self, one: int, other: int) -> None:
        """Makes one cluster of two."""
        one, other = sorted((self.find(one), self.find(other)))
        self._parents[other] = one


def similarity(one: str, other: str) -> float:
    """Returns the Jaccard similarity of two texts' character 5-grams, 0 to 1; case and punctuation do not count."""
    return _jaccard(_grams(one), _grams(other))


def near_duplicates(
    wordings: Sequence[Sequence[str]],
    contexts: Sequence[str] = (),
    *,
    threshold: float,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yields pairs of items, the earlier first, of which a wording nearly repeats one of the other's.

    What stands in an item's context counts with each of its wordings. Pairs that follow from others by way of a third
    item may be left out; of many texts that are all alike, later ones are compared with the first hundred.
    """
    index = _Index(sum(map(len, wordings)), len(wordings), threshold)
    for item, texts in enumerate(wordings):
        for text in texts:
            for earlier in index.add(item, text, contexts[item] if contexts else ""):
                yield earlier, item
        if on_progress:
            on_progress("comparing rows", item + 1, len(wordings))


class _Index:
    """Finds among the texts added so far those that are nearly the same as a new one."""

    def __init__(self, num_texts: int, num_items: int, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self._threshold = threshold
        # The index looks a little below the threshold and rather too often than too rarely; the exact test follows.
        self._buckets: Any = MinHashLSH(threshold=threshold - 0.05, num_perm=_NUM_PERM, weights=(0.2, 0.8))
        self._empty: Any = MinHash(num_perm=_NUM_PERM, seed=1, hashfunc=int)
        self._sketches = np.zeros((num_texts, _NUM_PERM), dtype=self._empty.hashvalues.dtype)
        self._texts: list[tuple[int, str, str]] = []
        self._cache: OrderedDict[int, Grams] = OrderedDict()
        self._cached = 0
        # A row's wordings come one after the other, and share its context.
        self._of_context = lru_cache(maxsize=4)(_grams)
        self._context_sketch = lru_cache(maxsize=1)(lambda context: self._sketched(self._of_context(context)))
        self._clusters = Union(num_items)
        self.kept: Counter[int] = Counter()
        """Texts that later ones are compared with, by cluster."""

    def add(self, item: int, text: str, context: str) -> list[int]:
        """Adds a text, joins its item with those that it nearly repeats, and returns these, one of each cluster."""
        number = len(self._texts)
        self._texts.append((item, text, context))
        sketch = self._sketch(number)
        near: list[int] = []
        alike = False
        for found, estimate in self._candidates(number, self._buckets.query(sketch)):
            owner = self._texts[found][0]
            joined = self._clusters.find(owner) == self._clusters.find(item)
            alike |= joined and estimate >= self._threshold
            if joined and estimate < 1:
                continue
            score = _jaccard(self._grams(found), self._grams(number))
            if not joined and score >= self._threshold:
                self._join(owner, item)
                near.append(owner)
            if score == 1:
                return near  # Its twin is in the index already, and stands for it.
        cluster = self._clusters.find(item)
        # Of a template there may be thousands: some stand for the others, or each would be compared with all.
        if not (near or alike) or self.kept[cluster] < _MAX_KEPT:
            self._buckets.insert(number, sketch)
            self.kept[cluster] += 1
        return near

    def _join(self, one: int, other: int) -> None:
        kept = self.kept.pop(self._clusters.find(one), 0) + self.kept.pop(self._clusters.find(other), 0)
        self._clusters.join(one, other)
        self.kept[self._clusters.find(one)] = kept

    def _candidates(self, number: int, found: Sequence[int]) -> list[tuple[int, float]]:
        """Returns the likeliest with their estimates: of rows from one template there would be too many pairs."""
        if not found:
            return []
        numbers = np.array(sorted(found))
        estimates = (self._sketches[numbers] == self._sketches[number]).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")[:_MAX_CANDIDATES]
        return [
            (int(numbers[i]), float(estimates[i])) for i in order if estimates[i] >= self._threshold - _ESTIMATE_ERROR
        ]

    def _sketch(self, number: int) -> Any:
        _, text, context = self._texts[number]
        sketch = self._sketched(_grams(text))
        if context:
            # The smallest hashes of a union are the smaller of both parts'.
            sketch.merge(self._context_sketch(context))
        self._sketches[number] = sketch.hashvalues
        return sketch

    def _sketched(self, grams: Grams) -> Any:
        sketch = self._empty.copy()
        for start in range(0, len(grams), _BATCH):
            sketch.update_batch(grams[start : start + _BATCH])
        return sketch

    def _grams(self, number: int) -> Grams:
        """Returns a text's n-grams, with those of its context; the latest are kept, up to a bound of memory."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        _, text, context = self._texts[number]
        grams = np.union1d(_grams(text), self._of_context(context)) if context else _grams(text)
        self._cache[number] = grams
        self._cached += len(grams)
        while self._cached > _MAX_CACHED and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= len(oldest)
        return grams


def _grams(text: str) -> Grams:
    """Returns the sorted hashes of a text's character 5-grams; of the whole text where it is shorter."""
    plain = _NOT_WORD.sub(" ", text.lower()).strip() or text
    points = np.frombuffer(f" {plain} ".encode("utf-32-le"), dtype=np.uint32)
    width = min(_GRAM, len(points))
    hashes = np.zeros(len(points) - width + 1, dtype=np.uint32)
    for offset in range(width):
        hashes = hashes * np.uint32(0x01000193) + points[offset : len(points) - width + 1 + offset]
    hashes ^= hashes >> np.uint32(16)
    return np.unique(hashes * np.uint32(0x85EBCA6B))


def _jaccard(one: Grams, other: Grams) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
