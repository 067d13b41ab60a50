"""A model without weights for the embedder's tests."""

import hashlib
import threading
from array import array
from collections.abc import Sequence

from services.embedder.domain import ModelInfo, Pair, Scores, TokenizedText, Vector

FAKE_MODEL = ModelInfo(name="fake", sha256="0" * 64, dimension=4, max_tokens=16)
CRASH = "crash"


class FakeEncoder:
    """Implements the Encoder port: one token for each word, framed by two special ones.

    The vector depends on the text's tokens alone. A batch with the word "crash" raises. While ``gate`` is clear, run
    waits in its thread; ``running`` is set once it does. ``batches`` records the token rows of every batch,
    ``tokenizers`` the names of the threads that tokenised.
    """

    def __init__(self, *, info: ModelInfo = FAKE_MODEL) -> None:
        self.info = info
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.batches: list[list[list[int]]] = []
        self.tokenizers: list[str] = []

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Returns one id for each word, cut to the model's limit."""
        self.tokenizers.append(threading.current_thread().name)
        rows = [[1, *map(word_id, text.split()), 2] for text in texts]
        limit = self.info.max_tokens
        return [TokenizedText(row[:limit], truncated=len(row) > limit) for row in rows]

    def run(self, batch: Sequence[TokenizedText]) -> list[Vector]:
        """Returns a vector derived from the hash of each row."""
        rows = [list(tokens.ids) for tokens in batch]
        self.batches.append(rows)
        self.running.set()
        if not self.gate.wait(timeout=30):
            raise TimeoutError("the test never opened the gate")
        if any(word_id(CRASH) in row for row in rows):
            raise RuntimeError("the fake model was told to fail")
        return [fake_vector(row, self.info.dimension) for row in rows]

    def warm_up(self) -> list[TokenizedText]:
        """Returns one short row and one of the model's limit."""
        return self.tokenize(["warm up", "warm up " * self.info.max_tokens])

    def close_gate(self) -> None:
        """Makes the next batch wait, and forgets the batches so far."""
        self.gate.clear()
        self.running.clear()
        self.batches.clear()


class FakeScorer:
    """Implements the PairScorer port: a pair's scores are the words that both texts have, then each text's length."""

    def __init__(self, *, labels: tuple[str, ...] = ("score",)) -> None:
        self.info = ModelInfo(name="scorer", sha256="1" * 64, dimension=len(labels), max_tokens=16, labels=labels)

    def tokenize(self, inputs: Sequence[Pair]) -> list[TokenizedText]:
        """Returns one id for each word of both texts, cut to the model's limit."""
        limit, found = self.info.max_tokens, []
        for first, second in inputs:
            ids, types = [], []
            for number, text in enumerate((first, second)):
                words = [word_id(word) for word in text.split()]
                ids += words
                types += [number] * len(words)
            found.append(TokenizedText(ids[:limit], truncated=len(ids) > limit, types=types[:limit]))
        return found

    def run(self, batch: Sequence[TokenizedText]) -> list[Scores]:
        """Returns the scores of each row."""
        found: list[Scores] = []
        for row in batch:
            texts = [{i for i, kind in zip(row.ids, row.types, strict=True) if kind == number} for number in (0, 1)]
            found.append([float(len(texts[0] & texts[1])), *map(float, map(len, texts))][: self.info.dimension])
        return found

    def warm_up(self) -> list[TokenizedText]:
        """Returns one row of the model's limit."""
        return self.tokenize([("warm " * self.info.max_tokens, "up")])


def word_id(word: str) -> int:
    """Returns the token id of a word, the same in every run."""
    return 3 + int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:3], "big")


def fake_vector(row: Sequence[int], dimension: int) -> Vector:
    """Returns a unit vector that depends on the row alone."""
    digest = hashlib.sha256(repr(list(row)).encode()).digest()
    raw = [byte + 1 for byte in digest[:dimension]]
    norm = sum(value * value for value in raw) ** 0.5
    return array("f", [value / norm for value in raw])
