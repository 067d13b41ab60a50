"""Applies what `evaluation/calibration` fitted: confidence of a draft, scope of a question, weight of an ensemble."""

from services.router.calibration.applying import Calibration
from services.router.calibration.reading import parse, read, version_of
from services.router.calibration.scope import Scope
from services.router.calibration.weight import own_weight

__all__ = ["Calibration", "Scope", "own_weight", "parse", "read", "version_of"]
