"""Asks the peers what they say of a case; what they fail to deliver is said, never raised.

The work is bounded: one Embed of at most MAX_TEXTS texts, one Score of two items, one ClassifyPairs of at most
MAX_PAIRS pairs.
"""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.router.domain.grounding import (
    AbsentSignal,
    Continuation,
    LikelihoodScorer,
    PairClassifier,
    Signal,
    TextEmbedder,
)
from services.router.grounding import reading
from services.router.grounding.case import Case
from tandem import prompts
from tandem.errors import TandemError

MAX_TEXTS = 64
"""Most texts embedded for an answer: its sentences, the question, and the parts nearest by words."""
MAX_PAIRS = 64
MAX_CHARACTERS = 32_768
"""Most characters of a text that the embedder takes; what is longer is cut."""
ENTAILS = ("entailment", "entails", "consistent", "supported", "score")
"""Labels that a classifier may call support, whatever their case; the first that it has is taken."""
T = TypeVar("T")
Told = tuple[dict[str, float], int]
"""Are the readings of a claim, and the place of the window that they are about."""


class Unusable(Exception):
    """Says that a peer answered something that cannot be read."""


async def attempt(signal: Signal, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T | AbsentSignal:
    """Returns what the work returns, or why there is nothing."""
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        return AbsentSignal(signal, f"no answer within {timeout_s:.3g} s")
    except TandemError as error:
        return AbsentSignal(signal, f"{error.code} {error.reason}")
    except Unusable as error:
        return AbsentSignal(signal, str(error))


async def vectors(embedder: TextEmbedder, case: Case, *, timeout_s: float) -> list[Told]:
    """Returns what vectors say of each claim, and the window nearest by meaning; raises TandemError or Unusable."""
    places = case.shortlist(MAX_TEXTS - 1 - len(case.claims))
    texts = [*map(case.text, case.claims), *(case.windows[place].text for place in places), case.question.strip()]
    found = await embedder.embed_texts([text[:MAX_CHARACTERS] or " " for text in texts], timeout_s=timeout_s)
    num = len(case.claims)
    if len(found) != len(texts) or len({len(vector) for vector in found}) != 1:
        raise Unusable("the embedder answered another number of vectors, or vectors of several lengths")
    told = []
    for claim in found[:num]:
        *near, echo = reading.embedding(claim, found[num:-1], found[-1])
        best = max(range(len(places)), key=lambda at: (near[at], -at))
        told.append(({"near": near[best], "echo": echo}, places[best]))
    return _finite(told)


async def likelihoods(scorer: LikelihoodScorer, case: Case, *, timeout_s: float) -> list[Told]:
    """Returns what the generator's likelihoods, with and without the passages, say of each claim; raises as above."""
    shown = [prompts.passage(passage.title, passage.text) for passage in case.passages]
    items = [Continuation(prompts.reading(case.question, read), case.answer) for read in (shown, [])]
    both = await scorer.score(items, timeout_s=timeout_s)
    if len(both) != 2 or len(both[0]) != len(both[1]) or not both[0]:
        raise Unusable("the two prompts were not scored by the same tokens")
    if not all(math.isfinite(token.logprob) for tokens in both for token in tokens):
        raise Unusable("a likelihood is no number")
    read, guessed = (reading.by_sentence(case.answer, case.claims, tokens) for tokens in both)
    return _finite([(reading.likelihood(a, b), 0) for a, b in zip(read, guessed, strict=True)])


async def entailment(
    classifier: PairClassifier, case: Case, *, timeout_s: float
) -> tuple[list[tuple[float, int]], str]:
    """Returns the chance that each claim is entailed, with the window that does best, and the classifier's hash.

    Raises TandemError or Unusable.
    """
    each = max(1, MAX_PAIRS // len(case.claims))
    tried = [(claim, place) for claim, row in enumerate(case.nearest) for _, place in row[:each]]
    pairs = [(case.windows[place].text, case.text(case.claims[claim])) for claim, place in tried]
    cut = [(premise[:MAX_CHARACTERS], said[:MAX_CHARACTERS]) for premise, said in pairs]
    found = await classifier.classify_pairs(cut, timeout_s=timeout_s)
    labels = [label.lower() for label in found.labels]
    column = next((labels.index(name) for name in ENTAILS if name in labels), None)
    if column is None or len(found.probabilities) != len(pairs):
        raise Unusable("the classifier has no label of support, or answered another number of pairs")
    best: list[tuple[float, int]] = [(-1.0, 0)] * len(case.claims)
    for (claim, place), row in zip(tried, found.probabilities, strict=True):
        value = float(row[column]) if len(row) == len(labels) else math.nan
        if not 0 <= value <= 1:
            raise Unusable("the classifier's figures are no probabilities")
        if value > best[claim][0]:
            best[claim] = (value, place)
    return best, found.model_sha256


def _finite(told: list[Told]) -> list[Told]:
    if not all(reading.finite(readings) for readings, _ in told):
        raise Unusable("a figure is no number")
    return told
