"""Tells how far a question lies from what the adapter was trained on.

k-NN: the mean cosine distance to the nearest training questions (Sun et al. 2022, arXiv 2204.06507, with a mean in
place of the k-th distance). Mahalanobis: the distance to the nearest group mean under one shrunk covariance for all
groups (Lee et al. 2018, arXiv 1807.03888).

Products are einsum, not @: BLAS takes all cores for them, and its threads stay busy for some 90 ms after each, which a
generator on the same machine waits for (docs/log.md).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.router.domain import QueryVector
from services.router.domain.calibration import ScopeMethod, ScopeModel, ScopeReading

Matrix = NDArray[np.float32]


class Scope:
    """Measures distances by one model. It holds (num_rows, dimension) floats and costs one product with them."""

    def __init__(self, model: ScopeModel) -> None:
        self.model = model
        self._rows = _matrix(model.rows, model.num_rows, model.dimension)
        if model.method is ScopeMethod.MAHALANOBIS:
            # (x - m)'P(x - m) by its terms, of which those without x are made once.
            self._precision = _matrix(model.precision, model.dimension, model.dimension).astype(np.float64)
            means = self._rows.astype(np.float64)
            self._towards = np.einsum("nd,de->ne", means, self._precision)  # (num_rows, dimension)
            self._lengths = np.einsum("nd,nd->n", self._towards, means)  # (num_rows,)

    def of(self, vector: QueryVector) -> ScopeReading:
        """Returns where a question lies; what cannot be compared with the model is told as a reason."""
        fault = self._fault(vector)
        if fault:
            return ScopeReading(None, None, fault, self.model.threshold)
        distance = self._distance(vector.values)
        if not math.isfinite(distance):
            return ScopeReading(None, None, "the embedding has no direction", self.model.threshold)
        inside = distance <= self.model.threshold
        reason = f"distance {distance:.3f} {'<=' if inside else '>'} scope {self.model.threshold:.3f}"
        return ScopeReading(distance, inside, reason, self.model.threshold)

    def _fault(self, vector: QueryVector) -> str:
        if vector.model_sha256 != self.model.embedder_sha256:
            return (
                f"the scope was fitted with embedder {self.model.embedder_sha256[:12]}, the question embedded by "
                f"{vector.model_sha256[:12] or 'an unnamed one'}; calibrate anew"
            )
        if len(vector.values) != self.model.dimension:
            return f"the scope has {self.model.dimension} dimensions, the embedding {len(vector.values)}"
        return ""

    def _distance(self, values: Sequence[float]) -> float:
        found = np.asarray(values, dtype=np.float32)
        norm = float(np.linalg.norm(found))
        if not math.isfinite(norm) or norm == 0:
            return math.nan
        unit = found / np.float32(norm)
        if self.model.method is ScopeMethod.KNN:
            cosines = np.einsum("nd,d->n", self._rows, unit)  # (num_rows,)
            nearest = np.partition(cosines, len(cosines) - self.model.neighbours)[-self.model.neighbours :]
            return float(1 - nearest.mean(dtype=np.float64))
        point = unit.astype(np.float64)
        own = float(np.einsum("d,de,e->", point, self._precision, point))
        squares = own - 2 * np.einsum("nd,d->n", self._towards, point) + self._lengths
        return math.sqrt(max(0.0, float(squares.min())))


def _matrix(data: bytes, num_rows: int, num_columns: int) -> Matrix:
    """Returns a read-only view of little-endian floats, (num_rows, num_columns)."""
    return np.frombuffer(data, dtype="<f4").reshape(num_rows, num_columns)
