"""Turns the features of a draft into a calibrated confidence, and says whether it is enough."""

import math
from bisect import bisect_right

from services.router.domain import Lineage
from services.router.domain.calibration import Artefact, Calibrated, Curve, Features


class Calibration:
    """Applies one artefact. It never raises: where confidence cannot be told, the draft is not accepted."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact

    def of(self, features: Features, lineage: Lineage) -> Calibrated:
        """Returns the confidence of a draft that these weights wrote."""
        missing = self._missing(features, lineage)
        if missing:
            return Calibrated(confidence=None, accepted=False, reason=missing, version=self.artefact.version)
        confidence = self._confidence(features)
        threshold = self.artefact.threshold
        accepted = threshold is not None and confidence >= threshold
        return Calibrated(
            confidence=confidence,
            accepted=accepted,
            reason=self._compared(confidence, accepted=accepted),
            version=self.artefact.version,
        )

    def _missing(self, features: Features, lineage: Lineage) -> str:
        """Returns why confidence cannot be told, "" where it can."""
        artefact = self.artefact
        if lineage.adapter_sha256 != artefact.adapter_sha256:
            return (
                f"the calibration is of adapter {artefact.adapter_sha256[:12]}, the answer of "
                f"{lineage.adapter_sha256[:12] or 'none'}; calibrate anew"
            )
        if lineage.model_sha256 != artefact.model_sha256:
            return (
                f"the calibration is of model {artefact.model_sha256[:12]}, the answer of "
                f"{lineage.model_sha256[:12] or 'an unnamed one'}; calibrate anew"
            )
        if features.abstained:
            return "the adapter gave no answer"
        for feature in artefact.features:
            value = features.of(feature.name)
            if value is None:
                return f"the calibration needs {feature.name}, which is not known here"
            if not math.isfinite(value):
                return f"{feature.name} is not a number"
        return ""

    def _confidence(self, features: Features) -> float:
        """Returns sigmoid(intercept + sum of weighted features), taken through the isotonic curve where there is one.

        Logistic regression (Cox 1958), as Platt (1999) calibrates; isotonic: Zadrozny and Elkan (2002).
        """
        score = self.artefact.intercept
        for feature in self.artefact.features:
            value = features.of(feature.name)
            if value is None:  # told before by _missing
                raise ValueError(feature.name)
            held = min(max(value, feature.low), feature.high)
            score += feature.weight * (held - feature.mean) / feature.scale
        confidence = sigmoid(score)
        return confidence if self.artefact.isotonic is None else _on(self.artefact.isotonic, confidence)

    def _compared(self, confidence: float, *, accepted: bool) -> str:
        threshold, risk, level = self.artefact.threshold, self.artefact.risk, self.artefact.level
        if threshold is None:
            return f"no threshold could be certified for a risk of {risk:.1%} at {level:.0%}: everything escalates"
        return f"confidence {confidence:.3f} {'>=' if accepted else '<'} threshold {threshold:.3f}"


def sigmoid(score: float) -> float:
    """Returns 1 / (1 + exp(-score)) without overflowing."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    grown = math.exp(score)
    return grown / (1 + grown)


def _on(curve: Curve, x: float) -> float:
    """Returns the height of the curve at x, between neighbours in proportion."""
    place = bisect_right(curve.x, x)
    if place == 0:
        return curve.y[0]
    if place == len(curve.x):
        return curve.y[-1]
    left, right = curve.x[place - 1], curve.x[place]
    share = (x - left) / (right - left)
    return curve.y[place - 1] + (curve.y[place] - curve.y[place - 1]) * share
