"""A model without weights for the embedder's tests."""

import hashlib
import threading
from array import array
from collections.abc import Sequence

from services.embedder.domain import ModelInfo, TokenizedText, Vector

FAKE_MODEL = ModelInfo(name="fake", sha256="0" * 64, dimension=4, max_tokens=16)
CRASH = "crash"


class FakeEncoder:
    """Implements the Encoder port: one token for each word, framed by two special ones.

    The vector depends on the text's tokens alone. A batch with the word "crash" raises. While ``gate`` is clear, encode
    waits in its thread; ``running`` is set once it does. ``batches`` records the token rows of every batch.
    """

    def __init__(self, *, info: ModelInfo = FAKE_MODEL) -> None:
        self.info = info
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.batches: list[list[list[int]]] = []

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Returns one id for each word, cut to the model's limit."""
        rows = [[1, *map(word_id, text.split()), 2] for text in texts]
        limit = self.info.max_tokens
        return [TokenizedText(row[:limit], truncated=len(row) > limit) for row in rows]

    def encode(self, batch: Sequence[Sequence[int]]) -> list[Vector]:
        """Returns a vector derived from the hash of each row."""
        self.batches.append([list(row) for row in batch])
        self.running.set()
        if not self.gate.wait(timeout=30):
            raise TimeoutError("the test never opened the gate")
        if any(word_id(CRASH) in row for row in batch):
            raise RuntimeError("the fake model was told to fail")
        return [fake_vector(row, self.info.dimension) for row in batch]

    def close_gate(self) -> None:
        """Makes the next batch wait, and forgets the batches so far."""
        self.gate.clear()
        self.running.clear()
        self.batches.clear()


def word_id(word: str) -> int:
    """Returns the token id of a word, the same in every run."""
    return 3 + int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:3], "big")


def fake_vector(row: Sequence[int], dimension: int) -> Vector:
    """Returns a unit vector that depends on the row alone."""
    digest = hashlib.sha256(repr(list(row)).encode()).digest()
    raw = [byte + 1 for byte in digest[:dimension]]
    norm = sum(value * value for value in raw) ** 0.5
    return array("f", [value / norm for value in raw])
