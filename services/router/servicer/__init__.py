"""The wire: requests checked, the engine called, answers converted."""

from services.router.servicer.advise import Adviser
from services.router.servicer.audit import AuditServicer
from services.router.servicer.feedback import FeedbackServicer
from services.router.servicer.ground import Grounder
from services.router.servicer.router import RouterServicer

__all__ = ["Adviser", "AuditServicer", "FeedbackServicer", "Grounder", "RouterServicer"]
