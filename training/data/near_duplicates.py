"""Finds texts that nearly repeat each other, so that no test asks what training showed.

Candidates come from MinHash with locality-sensitive hashing (Broder 1997, datasketch); each is then held against the
exact Jaccard similarity of its character 5-grams, so nothing is joined by chance.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRAM = 5
_NUM_PERM = 128
_MAX_CANDIDATES = 100
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
    *,
    threshold: float,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yields pairs of items, the earlier first, of which a wording nearly repeats one of the other's.

    Pairs that follow from others by way of a third item may be left out.
    """
    index = _Index([(item, text) for item, texts in enumerate(wordings) for text in texts], threshold)
    clusters = Union(len(wordings))
    number = 0
    for item, texts in enumerate(wordings):
        for _ in texts:
            for earlier in index.add(number, clusters):
                yield earlier, item
            number += 1
        if on_progress:
            on_progress("comparing rows", item + 1, len(wordings))


class _Index:
    """Finds among the texts added so far those that are nearly the same as a new one."""

    def __init__(self, texts: Sequence[tuple[int, str]], threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self._texts = texts
        self._threshold = threshold
        # The index looks a little below the threshold and rather too often than too rarely; the exact test follows.
        self._buckets: Any = MinHashLSH(threshold=threshold - 0.05, num_perm=_NUM_PERM, weights=(0.2, 0.8))
        self._empty: Any = MinHash(num_perm=_NUM_PERM, seed=1, hashfunc=int)
        self._sketches = np.zeros((len(texts), _NUM_PERM), dtype=self._empty.hashvalues.dtype)
        self._grams = lru_cache(maxsize=4096)(lambda number: _grams(texts[number][1]))

    def add(self, number: int, clusters: Union) -> list[int]:
        """Adds a text, joins its item with those that it nearly repeats, and returns these, one of each cluster."""
        item = self._texts[number][0]
        sketch = self._empty.copy()
        sketch.update_batch(self._grams(number))
        self._sketches[number] = sketch.hashvalues
        near: list[int] = []
        for found, estimate in self._candidates(number, self._buckets.query(sketch)):
            owner = self._texts[found][0]
            joined = clusters.find(owner) == clusters.find(item)
            if joined and estimate < 1:
                continue
            score = _jaccard(self._grams(found), self._grams(number))
            if not joined and score >= self._threshold:
                clusters.join(owner, item)
                near.append(owner)
            if score == 1:
                return near  # Its twin is in the index already, and stands for it.
        self._buckets.insert(number, sketch)
        return near

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


def _grams(text: str) -> NDArray[np.uint32]:
    """Returns the sorted hashes of a text's character 5-grams; of the whole text where it is shorter."""
    plain = _NOT_WORD.sub(" ", text.lower()).strip() or text
    points = np.frombuffer(f" {plain} ".encode("utf-32-le"), dtype=np.uint32)
    width = min(_GRAM, len(points))
    hashes = np.zeros(len(points) - width + 1, dtype=np.uint32)
    for offset in range(width):
        hashes = hashes * np.uint32(0x01000193) + points[offset : len(points) - width + 1 + offset]
    hashes ^= hashes >> np.uint32(16)
    return np.unique(hashes * np.uint32(0x85EBCA6B))


def _jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
