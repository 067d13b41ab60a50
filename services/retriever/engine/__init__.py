"""Finds passages, and describes, lists and deletes documents."""

from services.retriever.engine.documents import Documents
from services.retriever.engine.search import Defaults, Found, Searcher

__all__ = ["Defaults", "Documents", "Found", "Searcher"]
