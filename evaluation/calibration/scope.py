"""Fits scope detection: how far questions lie from those that an adapter was trained on, and what is too far.

k-NN (after Sun et al. 2022, arXiv 2204.06507): the mean cosine distance to the nearest training questions.
Mahalanobis (Lee et al. 2018, arXiv 1807.03888): the distance to the nearest group mean, with one covariance within
groups, shrunk after Ledoit and Wolf (2004); without groups there is one mean.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf  # type: ignore[import-untyped]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

from evaluation.calibration.calibrating import measure, separation
from tandem.errors import InvalidInput
from tandem.scoring import Interval

Floats = NDArray[np.float64]
KNN, MAHALANOBIS = "knn", "mahalanobis"
MIN_INSIDE = 20
"""Held-out questions under which no distance can be told that 95 % of such questions keep."""


@dataclass(frozen=True)
class Space:
    """Is what distances are measured in; rows are unit vectors (knn) or means (mahalanobis), (N, D)."""

    method: str
    neighbours: int
    rows: Floats
    precision: Floats | None

    def distances(self, vectors: Any) -> Floats:
        """Returns the distance of each row of (M, D), at least 0."""
        units = _units(vectors)
        if self.precision is None:
            near = NearestNeighbors(n_neighbors=self.neighbours, metric="cosine").fit(self.rows)
            found: Floats = near.kneighbors(units)[0].mean(axis=1)
            return found
        # (x - m)'P(x - m) by its terms: one product with the means instead of one for each of them.
        towards = self.rows @ self.precision  # (N, D)
        squares = np.einsum("md,md->m", units @ self.precision, units)[:, None] - 2 * units @ towards.T
        squares += np.einsum("nd,nd->n", towards, self.rows)[None, :]
        nearest: Floats = np.sqrt(np.maximum(0.0, squares.min(axis=1)))
        return nearest


@dataclass(frozen=True)
class ScopeFit:
    """Is a space with the distance that counts as outside; auroc is None where nothing outside was labelled."""

    space: Space
    threshold: float
    width: float
    accepted: float
    embedder_sha256: str
    auroc: Interval | None = None

    def document(self) -> dict[str, Any]:
        """Returns the artefact's part."""
        precision = self.space.precision
        return {
            "method": self.space.method,
            "neighbours": self.space.neighbours,
            "num_rows": int(self.space.rows.shape[0]),
            "dimension": int(self.space.rows.shape[1]),
            "rows": _packed(self.space.rows),
            "precision": "" if precision is None else _packed(precision),
            "threshold": self.threshold,
            "width": self.width,
            "embedder_sha256": self.embedder_sha256,
            "auroc": None if self.auroc is None else measure(self.auroc),
        }


def read_scope(part: Any) -> tuple[Space, float, str]:
    """Returns the space of an artefact's part, the greatest distance inside, and the SHA-256 of its embedder.

    Raises InvalidInput where the artefact has no scope.
    """
    if not isinstance(part, dict):
        raise InvalidInput(
            "the calibration has no scope; calibrate with --scope-data, the adapter's training questions"
        )
    try:
        dimension = int(part["dimension"])
        rows = _unpacked(part["rows"], dimension)
        precision = _unpacked(part["precision"], dimension) if part["method"] == MAHALANOBIS else None
        space = Space(str(part["method"]), int(part["neighbours"]), rows, precision)
        return space, float(part["threshold"]), str(part["embedder_sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"the calibration's scope is broken ({error!r}); write it anew with `tandem calibrate`"
        ) from None


def knn(training: Any, *, neighbours: int = 3) -> Space:
    """Returns the space of an adapter's training questions, (N, D); their embeddings need not have unit length."""
    rows = _units(training)
    if not 1 <= neighbours <= len(rows):
        raise InvalidInput.of("neighbours", f"is 1 to the number of training questions, {len(rows)}")
    return Space(KNN, neighbours, _rounded(rows), None)


def mahalanobis(training: Any, groups: Sequence[str] | None = None) -> Space:
    """Returns the space of an adapter's training questions, (N, D), around the mean of each group."""
    rows = _units(training)
    kinds, member = np.unique(np.asarray(groups or ["" for _ in rows], dtype=object), return_inverse=True)
    means = np.stack([rows[member == place].mean(axis=0) for place in range(len(kinds))])
    if len(rows) <= len(kinds):
        raise InvalidInput("mahalanobis needs groups of several questions each; use knn")
    covariance = LedoitWolf(assume_centered=True).fit(rows - means[member]).covariance_
    return Space(MAHALANOBIS, 1, _rounded(means), _rounded(np.linalg.inv(covariance)))


def fit_scope(
    space: Space,
    inside: Any,
    *,
    embedder_sha256: str,
    accepted: float = 0.95,
    outside: Any = None,
    inside_groups: Sequence[str] | None = None,
    seed: int = 0,
) -> ScopeFit:
    """Sets the threshold so that a share `accepted` of questions like `inside`, (M, D), lies within it.

    `inside` are questions that the adapter should answer and that it was not trained on: other wordings. The threshold
    is their ceil((M + 1) * accepted)-th distance, which holds for the next such question with at least that chance
    (split conformal prediction, arXiv 2107.07511). `outside`, (K, D), are for the AUROC alone.
    """
    if (missing := MIN_INSIDE - len(inside)) > 0:
        raise InvalidInput(f"{len(inside)} questions inside the scope are too few: {missing} more are needed")
    distances = space.distances(inside)
    place = min(len(distances), math.ceil((len(distances) + 1) * accepted))
    threshold = float(np.sort(distances)[place - 1])
    width = max(1e-6, threshold - float(np.median(distances)))
    found = None
    if outside is not None and len(outside):
        beyond = space.distances(outside).tolist()
        found = outside_auroc(distances.tolist(), beyond, inside_groups=inside_groups, seed=seed)
    return ScopeFit(space, threshold, width, accepted, embedder_sha256, found)


def outside_auroc(
    inside: Sequence[float], outside: Sequence[float], *, inside_groups: Sequence[str] | None = None, seed: int = 0
) -> Interval | None:
    """Returns the chance that a distance outside is greater than one inside, with its interval (groups drawn whole)."""
    groups = list(inside_groups or (f"in {number}" for number in range(len(inside))))
    groups += [f"out {number}" for number in range(len(outside))]
    return separation([*inside, *outside], [False] * len(inside) + [True] * len(outside), groups, seed=seed)


def _units(vectors: Any) -> Floats:
    rows = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True) if rows.ndim == 2 and len(rows) else np.zeros((1, 1))
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise InvalidInput("embeddings are needed, (number, dimension), each with a direction")
    found: Floats = rows / norms
    return found


def _rounded(matrix: Any) -> Floats:
    """Returns the matrix as the artefact keeps it: 32-bit floats."""
    return np.asarray(np.asarray(matrix, dtype="<f4"), dtype=np.float64)


def _packed(matrix: Floats) -> str:
    return base64.b64encode(matrix.astype("<f4").tobytes()).decode("ascii")


def _unpacked(text: str, dimension: int) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(-1, dimension).astype(np.float64)
