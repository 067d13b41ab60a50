"""Keeps the results of short texts that were asked for lately."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import Generic, TypeVar

from services.embedder.domain import NO_TIME, Computed

R = TypeVar("R")

MAX_CHARACTERS = 512
"""Longer texts are passages, which hardly come twice."""


class QueryCache(Generic[R]):
    """Remembers results by the hash of scope and text; the least recently used leaves first.

    The scope is the caller's tenant: were it not part of the key, a caller could tell from the time of an answer what
    another tenant has asked.
    """

    def __init__(self, *, max_texts: int) -> None:
        self._max_texts = max_texts
        self._kept: OrderedDict[Hashable, Computed[R]] = OrderedDict()

    def __len__(self) -> int:
        """Returns the number of texts kept."""
        return len(self._kept)

    def get(self, scope: str, text: str) -> Computed[R] | None:
        """Returns what was computed for the text, with timings of zero, or None."""
        if len(text) > MAX_CHARACTERS or not self._kept:
            return None
        key = _key(scope, text)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, scope: str, text: str, computed: Computed[R]) -> None:
        """Remembers a result, unless the text is long."""
        if len(text) > MAX_CHARACTERS or not self._max_texts:
            return
        self._kept[_key(scope, text)] = replace(computed, timings=NO_TIME)
        if len(self._kept) > self._max_texts:
            self._kept.popitem(last=False)


def _key(scope: str, text: str) -> bytes:
    # The scope's length keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.sha256(f"{len(scope)} {scope}{text}".encode("utf-8", "surrogatepass")).digest()
