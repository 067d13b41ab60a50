"""Calibration: what is known of an answer, the artefact that turns it into a confidence, and what comes out.

`evaluation/calibration` fits the artefact; the router only reads and applies it.
"""

from dataclasses import dataclass, fields
from enum import StrEnum


class CalibrationInvalid(ValueError):
    """Says that an artefact cannot be used, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Holds what is known of a draft, each None where it is not known.

    The first eight come with the draft itself, `scope_distance` needs the question's embedding, the scores a search,
    `agreement` an answer of the other path.
    """

    mean_logprob: float | None = None
    """Mean of the generated tokens' logprobs, in nats, at most 0."""
    min_logprob: float | None = None
    """Least of them."""
    mean_entropy: float | None = None
    """Mean of the tokens' entropies, in nats."""
    max_entropy: float | None = None
    """Greatest of them."""
    mean_margin: float | None = None
    """Mean, over the tokens, of the likeliest token's probability less the second's, 0 to 1."""
    min_margin: float | None = None
    """Least of these margins."""
    num_tokens: float | None = None
    """Tokens of the draft."""
    abstained: bool = False
    """Whether the draft says that it has no answer. Such a draft has no confidence and is accepted at no threshold."""
    scope_distance: float | None = None
    """Distance of the question to what the adapter was trained on, as the artefact's scope measures it."""
    top_score: float | None = None
    """Score of the best passage, in the retriever's unit."""
    score_gap: float | None = None
    """Score of the best passage less that of the second, at least 0."""
    agreement: float | None = None
    """Token F1 of the two paths' answers (tandem.scoring.f1), 0 to 1."""

    def of(self, name: str) -> float | None:
        """Returns one of FEATURE_NAMES."""
        value: float | None = getattr(self, name)
        return value


NOTHING_KNOWN = Features()
FEATURE_NAMES = tuple(field.name for field in fields(Features) if field.name != "abstained")


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Is a feature's part in the score: weight * (value held within [low, high] - mean) / scale.

    low and high are the bounds of the questions that it was fitted on: beyond them nothing is known, so that a draft
    stranger than all of those is not given more confidence than the extreme one of them.
    """

    name: str
    mean: float
    scale: float
    weight: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Is a rising line through points, flat outside of them: isotonic regression on the logistic confidence."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Measure:
    """Is a figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Tells what was found on the questions that certified the threshold and that the fit never saw.

    accepted is the share of questions whose answer is accepted, 0 where no threshold is certified; risk the share of
    wrong answers among the accepted (a group of questions counts once), None where nothing is accepted. ece_before is
    that of the geometric mean of the token probabilities, None where the questions did not tell it.
    """

    num_questions: int
    num_fitted: int
    num_certifying: int
    num_groups: int
    accuracy: float
    accepted: Measure
    risk: Measure | None
    ece_before: float | None
    ece_after: float
    auroc: Measure | None


class ScopeMethod(StrEnum):
    """Is how the distance of a question to the adapter's training questions is measured."""

    KNN = "knn"
    MAHALANOBIS = "mahalanobis"


@dataclass(frozen=True, kw_only=True)
class ScopeModel:
    """Holds what scope detection compares a question's embedding with.

    rows are float32, little-endian, (num_rows, dimension): for `knn` the unit vectors of the training questions, for
    `mahalanobis` the means of their groups, one row where there are none. precision is the inverse covariance,
    (dimension, dimension), empty for `knn`.
    """

    method: ScopeMethod
    neighbours: int
    """How many of the nearest are averaged; `knn` alone uses it."""
    num_rows: int
    dimension: int
    rows: bytes
    precision: bytes
    threshold: float
    """Greatest distance that counts as inside; 95 % of held-out training-like questions are within it."""
    width: float
    """Distance over which confidence fades outside, more than 0."""
    embedder_sha256: str
    """Weights of the embedder that made the rows; vectors of others cannot be compared with them."""
    auroc: Measure | None
    """Of the distance on labelled questions, inside against outside; None where there were none."""


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Holds how an ensemble weighs its two prompts; see services.router.calibration.weight."""

    own_prior: float
    """Chance that the adapter is right where no confidence of a draft is known, 0 to 1."""
    evidence_intercept: float
    evidence_slope: float
    """Chance that the passages' path is right: sigmoid(intercept + slope * top_score); the slope is at least 0."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """Is the calibration of one domain, as its file holds it; `version` is the SHA-256 of what the file says."""

    version: str
    domain: str
    created: str
    model_sha256: str
    adapter_sha256: str
    data_sha256: str
    features: tuple[Weighted, ...]
    intercept: float
    isotonic: Curve | None
    threshold: float | None
    """Least confidence that is accepted; None where none could be certified, and then everything escalates."""
    risk: float
    """Greatest share of wrong answers among the accepted that the threshold was certified for, 0 to 1."""
    level: float
    """Chance, over the choice of the questions, that this holds: 1 - delta."""
    measured: Measured
    scope: ScopeModel | None
    blend: Blend | None


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Is what calibration says of one draft.

    confidence is None where it cannot be told, which is never accepted; reason says why or names the figures compared.
    """

    confidence: float | None
    accepted: bool
    reason: str
    version: str


@dataclass(frozen=True)
class ScopeReading:
    """Is where a question lies; distance and inside are None where it cannot be told, and reason says why."""

    distance: float | None
    inside: bool | None
    reason: str
    threshold: float = 0.0
    """Greatest distance that counts as inside."""
