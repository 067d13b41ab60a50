"""Sets how much of an ensemble's next token comes from the fine-tuned prompt.

Both prompts are weighed by the chance that their path is right:

    own      = c * fade(d)         c: calibrated confidence of a draft, else the adapter's accuracy when calibrated
    fade(d)  = 1 inside the scope, exp(-(d - threshold) / width) outside
    evidence = sigmoid(intercept + slope * best passage's score), 0 without passages
    w        = own / (own + evidence)

It is Tandem's own rule, not one from a paper; what is fitted in it are c, the scope, and the evidence's line. w rises
with c and falls with the distance and with the score.
"""

import math

from services.router.calibration.applying import sigmoid
from services.router.domain.calibration import Blend, ScopeModel


def own_weight(
    blend: Blend,
    *,
    confidence: float | None,
    scope: ScopeModel | None,
    scope_distance: float | None,
    top_score: float | None,
) -> float:
    """Returns w, 0 to 1; 1 where no passage was found.

    Each of the figures is None where it is not known: without a confidence the adapter's accuracy stands for it,
    without a distance the question counts as inside. A score that is not a number counts as 0.
    """
    if top_score is None:
        return 1.0
    own = blend.own_prior if confidence is None else confidence
    if scope is not None and scope_distance is not None:
        own *= math.exp(-max(0.0, scope_distance - scope.threshold) / scope.width)
    evidence = sigmoid(blend.evidence_intercept + blend.evidence_slope * (top_score if math.isfinite(top_score) else 0))
    if not math.isfinite(own) or own <= 0:
        return 0.0
    return own / (own + evidence)
