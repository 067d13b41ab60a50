"""Builds versions of the collection beside the live one, compares, promotes, rolls back and drops them."""

from services.retriever.snapshots.builder import Builder
from services.retriever.snapshots.keeper import Difference, Keeper

__all__ = ["Builder", "Difference", "Keeper"]
