"""The decision framework: a profile of seven factors in, an advice with all its reasons out; no model, no chance."""

from services.router.advisor.advisor import Advisor
from services.router.advisor.drawing import draw
from services.router.advisor.framework import Framework, FrameworkFault
from services.router.advisor.live import LiveEvidence
from services.router.advisor.reading import read
from services.router.advisor.verdicts import VerdictWindow
from services.router.advisor.window import AnswerWindow

__all__ = ["Advisor", "AnswerWindow", "Framework", "FrameworkFault", "LiveEvidence", "VerdictWindow", "draw", "read"]
