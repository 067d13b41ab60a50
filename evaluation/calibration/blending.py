"""Fits the chances that an ensemble weighs its two prompts by; the router's calibration room says how."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from evaluation.calibration.rows import Row

_MIN_LABELLED = 50
"""Labelled answers from passages under which the score of the best one is not believed to tell anything."""


def fit_blend(rows: Sequence[Row]) -> tuple[dict[str, Any], str]:
    """Returns the artefact's part and a note on how it came about.

    The prior is the adapter's share of right answers, (right + 1) / (all + 2) after Laplace. The evidence's line is a
    logistic regression of evidence_correct on top_score; flat at its share where there are few labels or where it would
    fall, and at one half where there are none.
    """
    own = _share([row.correct and not row.abstained for row in rows])
    labelled = [
        (row.features.get("top_score"), row.evidence_correct) for row in rows if row.evidence_correct is not None
    ]
    pairs = [(score, right) for score, right in labelled if score is not None]
    flat = _share([right for _, right in labelled])
    line = {"own_prior": own, "evidence_intercept": math.log(flat / (1 - flat)), "evidence_slope": 0.0}
    scores, right = np.array([score for score, _ in pairs]), np.array([right for _, right in pairs])
    if len(pairs) < _MIN_LABELLED or right.min() == right.max() or scores.std() < 1e-12:
        return line, f"evidence is weighed alike at every score: {len(pairs)} answers from passages are labelled"
    fitted = LogisticRegression(max_iter=1000).fit(((scores - scores.mean()) / scores.std())[:, None], right)
    slope = float(fitted.coef_[0, 0]) / float(scores.std())
    if slope <= 0:
        return line, "evidence is weighed alike at every score: higher scores were not right more often"
    intercept = float(fitted.intercept_[0]) - slope * float(scores.mean())
    return {**line, "evidence_intercept": intercept, "evidence_slope": slope}, (
        f"evidence is weighed by its score, fitted on {len(pairs)} labelled answers from passages"
    )


def _share(flags: Sequence[bool | None]) -> float:
    return (sum(map(bool, flags)) + 1) / (len(flags) + 2)
