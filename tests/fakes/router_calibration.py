"""Small artefacts for the weights and the embedder of tests/fakes/router.py."""

from collections.abc import Sequence

import numpy as np

from services.router.domain.calibration import (
    Artefact,
    Blend,
    Measure,
    Measured,
    ScopeMethod,
    ScopeModel,
    Weighted,
)
from tests.fakes.router import EMBEDDER_SHA256, lineage_of

NEAR, FAR = (0.0, 1.0), (1.0, 0.0)
"""The only training question's direction, and one that is outside of the scope."""


AROUND_NEAR = ScopeModel(
    method=ScopeMethod.KNN,
    neighbours=1,
    num_rows=1,
    dimension=2,
    rows=np.array(NEAR, dtype="<f4").tobytes(),
    precision=b"",
    threshold=0.3,
    width=0.1,
    embedder_sha256=EMBEDDER_SHA256,
    auroc=None,
)
"""Is a scope of two dimensions around one training question."""


def artefact_of(
    *,
    threshold: float | None,
    features: Sequence[str] = (),
    version: str = "af" * 32,
    blend: Blend | None = None,
    scope: ScopeModel | None = AROUND_NEAR,
) -> Artefact:
    """Returns an artefact by which confidence is sigmoid(1 + the sum of the features within [-1, 1])."""
    lineage = lineage_of("answers")
    return Artefact(
        version=version,
        domain="default",
        created="2026-03-01T00:00:00Z",
        model_sha256=lineage.model_sha256,
        adapter_sha256=lineage.adapter_sha256,
        data_sha256="da" * 32,
        features=tuple(Weighted(name=name, mean=0.0, scale=1.0, weight=1.0, low=-1.0, high=1.0) for name in features),
        intercept=1.0,
        isotonic=None,
        threshold=threshold,
        risk=0.1,
        level=0.95,
        measured=Measured(
            num_questions=600,
            num_fitted=300,
            num_certifying=300,
            num_groups=300,
            accuracy=0.8,
            accepted=Measure(0.5, 0.4, 0.6),
            risk=None,
            ece_before=None,
            ece_after=0.05,
            auroc=None,
        ),
        scope=scope,
        blend=blend,
    )
