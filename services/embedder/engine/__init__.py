"""Batches texts of many calls onto one model."""

from services.embedder.engine.engine import Engine

__all__ = ["Engine"]
