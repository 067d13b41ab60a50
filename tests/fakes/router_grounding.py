"""Peers of grounding that count words, and peers that fail."""

import asyncio
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.router.domain.grounding import ClassifiedPairs, Continuation, TokenLikelihood


def words(text: str) -> list[str]:
    """Returns the words in small letters."""
    return re.findall(r"\w+", text.lower())


@dataclass
class WordEmbedder:
    """Embeds a text as its words, hashed; texts without a word are the zero vector."""

    failure: Exception | None = None
    value: float = 1.0
    calls: list[Sequence[str]] = field(default_factory=list)

    async def embed_texts(self, texts: Sequence[str], *, timeout_s: float) -> Sequence[Sequence[float]]:
        """Returns one vector for each text."""
        self.calls.append(texts)
        if self.failure:
            raise self.failure
        vectors = [[0.0] * 64 for _ in texts]
        for vector, text in zip(vectors, texts, strict=True):
            for word in words(text):
                vector[zlib.crc32(word.encode()) % 64] += self.value
        return vectors


@dataclass
class WordScorer:
    """Finds a word likely where the prompt holds it."""

    failure: Exception | None = None
    unseen: float = 0.01
    delay_s: float = 0.0
    calls: list[Sequence[Continuation]] = field(default_factory=list)

    async def score(
        self, continuations: Sequence[Continuation], *, timeout_s: float
    ) -> Sequence[Sequence[TokenLikelihood]]:
        """Returns the words and blanks of each continuation."""
        self.calls.append(continuations)
        await asyncio.sleep(self.delay_s)
        if self.failure:
            raise self.failure
        return [self._one(one) for one in continuations]

    def _one(self, one: Continuation) -> list[TokenLikelihood]:
        known = set(words(" ".join(message.content for message in one.messages)))
        pieces = re.findall(r"\s*\S+|\s+$", one.text)
        return [TokenLikelihood(p, math.log(0.9 if known.issuperset(words(p)) else self.unseen)) for p in pieces]


@dataclass
class WordClassifier:
    """Says that a premise entails what it holds all words of."""

    labels: Sequence[str] = ("Contradiction", "Neutral", "Entailment")
    failure: Exception | None = None
    value: float = 0.98
    calls: list[Sequence[tuple[str, str]]] = field(default_factory=list)

    async def classify_pairs(self, pairs: Sequence[tuple[str, str]], *, timeout_s: float) -> ClassifiedPairs:
        """Returns the probabilities of each pair."""
        self.calls.append(pairs)
        if self.failure:
            raise self.failure
        held = [set(words(premise)).issuperset(words(claim)) for premise, claim in pairs]
        rows = [(0.01, 0.01, self.value) if yes else (0.02, 0.96, 0.02) for yes in held]
        return ClassifiedPairs(self.labels, rows, "c" * 64)
