"""The wire: requests checked, the engine called, answers converted."""

from services.router.servicer.advise import Adviser, OneDomain
from services.router.servicer.audit import AuditServicer
from services.router.servicer.router import RouterServicer

__all__ = ["Adviser", "AuditServicer", "OneDomain", "RouterServicer"]
