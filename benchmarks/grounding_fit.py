"""Fits the combination of a set of signals: logistic regression of sentences on the labels of whole answers.

An answer is supported where all its sentences are, so its chance is the product of theirs, and that is what the labels
are compared with (log loss). Each source has an intercept of its own, and sources weigh the same: the weights explain
differences within a source, not between them. Readings may only count in the direction that they are meant to, and the
weights of standardised readings are pulled to 0 (ridge).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from services.router.domain.grounding import Signal
from services.router.grounding.combining import Combination

READINGS: Mapping[Signal, Mapping[str, int]] = {
    Signal.LEXICAL: {
        "told": 1, "repeated": -1, "asked": -1, "new": -1, "told_names": 1, "new_names": -1, "new_figures": -1,
        "moved_figures": -1, "full": 1, "words": 1, "all_words": 1, "all_overlap": 1, "tied": 1, "negation": -1,
    },
    Signal.EMBEDDING: {"near": 1, "echo": -1},
    Signal.LIKELIHOOD: {"gain": 1, "lost": -1, "guessed": -1},
}  # fmt: skip
"""The readings of each signal and the direction in which each may count."""
RIDGE = 3e-3


@dataclass(frozen=True)
class Example:
    """Is one answer: the readings of its sentences that say something."""

    source: str
    supported: bool
    sentences: Sequence[Mapping[str, float]]


def fit(examples: Sequence[Example], signals: Sequence[Signal], *, ridge: float = RIDGE) -> Combination:
    """Returns the combination; its bias is the mean of the sources' intercepts."""
    names = [name for signal in signals for name in READINGS[signal]]
    signs = np.array([sign for signal in signals for sign in READINGS[signal].values()])
    raw = np.array([[one[name] for name in names] for example in examples for one in example.sentences])
    means, scales = raw.mean(0), np.maximum(raw.std(0), 1e-6)
    rows = (raw - means) / scales
    owner = np.array([at for at, example in enumerate(examples) for _ in example.sentences])
    sources = sorted({example.source for example in examples})
    source = np.array([sources.index(example.source) for example in examples])
    label = np.array([float(example.supported) for example in examples])
    share = 1 / np.bincount(source)[source] / len(sources)

    def loss(given: Any) -> tuple[float, Any]:
        bias, weights = given[: len(sources)], given[len(sources) :]
        z = rows @ weights + bias[source[owner]]
        log_chance = np.minimum(np.bincount(owner, -np.logaddexp(0, -z), len(examples)), -1e-9)
        chance = np.exp(log_chance)
        value = -(label * log_chance + (1 - label) * np.log1p(-chance)) @ share + ridge * weights @ weights
        slope = -(label - (1 - label) * chance / (1 - chance)) * share
        by_row = slope[owner] / (1 + np.exp(np.clip(z, -40, 40)))
        return value, np.r_[np.bincount(source[owner], by_row, len(sources)), rows.T @ by_row + 2 * ridge * weights]

    bounds = [(None, None)] * len(sources) + [(0, None) if sign > 0 else (None, 0) for sign in signs]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B").x
    return Combination(
        signals=tuple(signals),
        readings=tuple(names),
        means=tuple(round(float(value), 6) for value in means),
        scales=tuple(round(float(value), 6) for value in scales),
        weights=tuple(round(float(value), 4) + 0.0 for value in found[len(sources) :]),
        bias=round(float(found[: len(sources)].mean()), 4),
    )
