"""Combines the readings of a sentence to its groundedness, by weights that were fitted offline.

A sentence's groundedness is p = 1 / (1 + exp(-(b + sum of w_i (x_i - m_i) / s_i))), logistic regression; each set of
signals that may be there has weights of its own. One rule stands above the fit, for the public sets that it rests on
hold few such cases: a sentence with a figure that no passage holds, or none of the same thing, has p times
CONTRADICTED, and so has one that differs in negation from what the passages say of its subject.

An answer's groundedness is the product of its sentences': as if each were right or wrong by itself, the chance that
all are. Sentences without a content word ("Yes, it is.") count only where the answer has no others.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from services.router.domain.grounding import Signal

CONTRADICTED = 0.4
"""Factor, and so the most, of a sentence whose figure or negation is not that of the passages."""
CONTRADICTING = ("new_figures", "moved_figures", "negation")
SUPPORTED = 0.5
"""Groundedness from which a sentence's support is named even where no part says it word for word."""
_FILE = "weights.json"


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Is a logistic regression over named readings."""

    signals: tuple[Signal, ...]
    readings: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        numbers = (*self.means, *self.scales, *self.weights, self.bias)
        lengths = {len(self.readings), len(self.means), len(self.scales), len(self.weights)}
        if len(lengths) != 1 or not all(map(math.isfinite, numbers)) or min(self.scales, default=1) <= 0:
            raise ValueError("a combination has one mean, one scale above 0 and one weight for each reading, finite")

    def sentence(self, readings: Mapping[str, float]) -> float:
        """Returns the groundedness of a sentence, 0 to 1."""
        rows = zip(self.readings, self.means, self.scales, self.weights, strict=True)
        total = self.bias + sum(w * (readings[name] - mean) / scale for name, mean, scale, w in rows)
        value = 1 / (1 + math.exp(-min(max(total, -40.0), 40.0)))
        contradicted = any(readings.get(name, 0.0) > 0 for name in CONTRADICTING)
        return value * CONTRADICTED if contradicted else value


@dataclass(frozen=True)
class Weights:
    """Are the combinations by the set of signals they need, and the hash that names them."""

    combinations: Mapping[frozenset[Signal], Combination]
    version: str

    def of(self, signals: Iterable[Signal]) -> Combination:
        """Returns the combination of these signals; raises LookupError where none was fitted."""
        return self.combinations[frozenset(signals)]


def answer_groundedness(sentences: Sequence[tuple[float, int]]) -> float:
    """Returns the product over (groundedness, number of content words), those without any left out; 0 of nothing."""
    counted = [value for value, num_words in sentences if num_words] or [value for value, _ in sentences]
    return math.prod(counted) if counted else 0.0


def parse(text: str) -> Weights:
    """Reads what was fitted; raises ValueError with what is wrong."""
    try:
        rows = json.loads(text)["combinations"]
        found = [
            Combination(
                signals=tuple(Signal(name) for name in row["signals"]),
                readings=tuple(one["reading"] for one in row["readings"]),
                means=tuple(float(one["mean"]) for one in row["readings"]),
                scales=tuple(float(one["scale"]) for one in row["readings"]),
                weights=tuple(float(one["weight"]) for one in row["readings"]),
                bias=float(row["bias"]),
            )
            for row in rows
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the weights of grounding lack {error}") from error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Weights({frozenset(one.signals): one for one in found}, digest)


@cache
def committed() -> Weights:
    """Returns the weights that come with the package."""
    return parse(resources.files("services.router.grounding").joinpath(_FILE).read_text(encoding="utf-8"))
