"""Fits a confidence: logistic regression on standardised features, and an isotonic curve on top where it is wanted.

Cox 1958, as Platt (1999) calibrates; isotonic: Zadrozny and Elkan 2002.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from tandem.errors import InvalidInput

Floats = NDArray[np.float64]
_NUM_FOLDS = 5


@dataclass(frozen=True)
class Model:
    """Is a fitted confidence; the arrays are (F,), in the order of names. Values are held within [low, high]."""

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    weight: Floats
    low: Floats
    high: Floats
    intercept: float
    curve: tuple[Floats, Floats] | None = None

    def confidence(self, matrix: Floats) -> Floats:
        """Returns the confidence of each row of (N, F)."""
        held = np.clip(matrix, self.low, self.high)
        score = self.intercept + ((held - self.mean) / self.scale) @ self.weight
        found: Floats = 1 / (1 + np.exp(-np.clip(score, -700, 700)))
        return found if self.curve is None else np.interp(found, *self.curve)

    def document(self) -> dict[str, Any]:
        """Returns what the artefact holds of it."""
        columns = (self.mean, self.scale, self.weight, self.low, self.high)
        keys = ("mean", "scale", "weight", "low", "high")
        return {
            "features": [
                {"name": name, **{key: float(column[place]) for key, column in zip(keys, columns, strict=True)}}
                for place, name in enumerate(self.names)
            ],
            "intercept": self.intercept,
            "isotonic": None if self.curve is None else {"x": self.curve[0].tolist(), "y": self.curve[1].tolist()},
        }


def fit(
    matrix: Floats, correct: Sequence[bool], groups: Sequence[str], names: Sequence[str], *, isotonic: bool, seed: int
) -> tuple[Model, Floats]:
    """Returns the model of (N, F) and the confidences, (N,), that models of the other folds give each answer.

    Features that are the same in all answers are left out. Raises InvalidInput where all answers are right, or wrong.
    """
    target = np.asarray(correct, dtype=int)
    if target.min() == target.max():
        kind = "right" if target[0] else "wrong"
        raise InvalidInput(f"all {len(target)} answers to fit on are {kind}; calibration needs answers of both kinds")
    varied = np.flatnonzero(matrix.std(axis=0) > 1e-12)
    if not len(varied):
        raise InvalidInput("no feature differs between the answers; nothing can be told from them")
    kept, chosen = matrix[:, varied], tuple(names[int(place)] for place in varied)
    model = _logistic(kept, target, chosen)
    others = _out_of_fold(kept, target, groups, chosen, seed=seed, whole=model)
    if isotonic:
        # Fitted on confidences of unseen answers: on seen ones the curve would be too steep.
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(others, target)
        points = (np.asarray(curve.X_thresholds_, np.float64), np.asarray(curve.y_thresholds_, np.float64))
        model = replace(model, curve=points)
        others = np.interp(others, *points)
    return model, others


def _logistic(matrix: Floats, target: Any, names: tuple[str, ...]) -> Model:
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    fitted = LogisticRegression(max_iter=1000).fit((matrix - mean) / scale, target)
    return Model(
        names=names,
        mean=mean,
        scale=scale,
        weight=np.asarray(fitted.coef_[0], np.float64),
        low=matrix.min(axis=0),
        high=matrix.max(axis=0),
        intercept=float(fitted.intercept_[0]),
    )


def _out_of_fold(
    matrix: Floats, target: Any, groups: Sequence[str], names: tuple[str, ...], *, seed: int, whole: Model
) -> Floats:
    """Returns confidences from models that saw no answer of the same group; the whole model's where a fold fails."""
    kinds, member = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(kinds))[member] % _NUM_FOLDS
    found = whole.confidence(matrix)
    for fold in range(_NUM_FOLDS):
        out = folds == fold
        seen, labels = matrix[~out], target[~out]
        usable = len(labels) > 0 and labels.min() != labels.max() and bool((seen.std(axis=0) > 1e-12).all())
        if out.any() and usable:
            found[out] = _logistic(seen, labels, names).confidence(matrix[out])
    return found
