"""Labelled answers as a serving run would collect them, and artefacts fitted on them."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np

from evaluation.calibration.artefact import artefact
from evaluation.calibration.calibrating import Wish, calibrate
from evaluation.calibration.rows import Row
from evaluation.calibration.scope import fit_scope, knn, mahalanobis

MODEL, ADAPTER, DATA, EMBEDDER = (letter * 64 for letter in "abcd")
CREATED = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def answers(num: int = 500, *, seed: int = 0, error: float = 0.01, group_size: int = 1) -> list[Row]:
    """Returns answers of an adapter that is right where it is sure but for a share `error`, and guesses elsewhere."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num):
        sure = random.random() < 0.6
        right = random.random() < (1 - error if sure else 0.3)
        logprob = -random.exponential(0.02 if sure else 0.6)
        features = {
            "mean_logprob": logprob,
            "min_logprob": 3 * logprob,
            "num_tokens": float(random.integers(3, 20)),
            "scope_distance": abs(random.normal(0.15 if sure else 0.55, 0.1)),
        }
        group = f"fact {number // group_size}"
        rows.append(Row(f"q{number}", group, features, bool(right), abstained=bool(random.random() < 0.02)))
    return rows


def vectors(num: int, *, seed: int = 0, dimension: int = 8, away: float = 0.0) -> Any:
    """Returns directions, (num, dimension), around one; `away` turns them from it."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 0.3, (num, dimension))
    rows[:, 0] += 1 - away
    rows[:, 1] += away
    return rows


def scope_part(method: str = "knn") -> dict[str, Any]:
    """Returns the artefact's part of a scope of 40 vectors."""
    learnt = vectors(40, seed=1)
    groups = [f"g{number % 4}" for number in range(40)]
    space = knn(learnt) if method == "knn" else mahalanobis(learnt, groups)
    return fit_scope(
        space, vectors(60, seed=2), embedder_sha256=EMBEDDER, outside=vectors(30, seed=3, away=1.0)
    ).document()


def document(
    rows: list[Row] | None = None, *, wish: Wish | None = None, method: str = "knn", domain: str = "claims"
) -> dict[str, Any]:
    """Returns a sealed artefact."""
    fitted = calibrate(rows or answers(), wish or Wish())
    return artefact(
        fitted.document(),
        domain=domain,
        created=CREATED,
        model_sha256=MODEL,
        adapter_sha256=ADAPTER,
        data_sha256=DATA,
        scope=scope_part(method),
        blend={"own_prior": 0.7, "evidence_intercept": -1.0, "evidence_slope": 2.0},
    )


def lines(rows: list[Row]) -> str:
    """Returns the rows as a file holds them."""
    return "".join(
        json.dumps(
            {
                "question_id": row.question_id,
                "group": row.group,
                "features": {**row.features, "abstained": row.abstained},
                "correct": row.correct,
                "evidence_correct": row.evidence_correct,
            }
        )
        + "\n"
        for row in rows
    )
