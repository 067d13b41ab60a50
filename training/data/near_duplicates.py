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
_SAME = 0.95
"""Similarity from which a text is not put into the index again: its twin stands for it."""
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
    from datasketch import MinHash, MinHashLSH

    index: Any = MinHashLSH(threshold=max(0.1, threshold - 0.05), num_perm=_NUM_PERM, weights=(0.2, 0.8))
    empty: Any = MinHash(num_perm=_NUM_PERM, seed=1, hashfunc=int)
    texts: list[str] = []
    owners: list[int] = []
    clusters = Union(len(wordings))

    @lru_cache(maxsize=4096)
    def grams(number: int) -> NDArray[np.uint32]:
        return _grams(texts[number])

    for item, group in enumerate(wordings):
        for text in group:
            number = len(texts)
            texts.append(text)
            owners.append(item)
            sketch = empty.copy()
            sketch.update_batch(grams(number))
            twin = False
            for found in sorted(index.query(sketch)):
                same = owners[found] == item
                if not same and not twin and clusters.find(owners[found]) == clusters.find(item):
                    continue
                score = _jaccard(grams(found), grams(number))
                twin = twin or score >= _SAME
                if not same and score >= threshold:
                    clusters.join(owners[found], item)
                    yield owners[found], item
            if not twin:
                index.insert(number, sketch)
        if on_progress:
            on_progress("comparing rows", item + 1, len(wordings))


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
