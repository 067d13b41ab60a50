"""Speaks tandem.v1.RetrieverService: checks, calls the engine or the ingestion, converts."""

from services.retriever.servicer.service import SERVICE_NAME, RetrieverServicer

__all__ = ["SERVICE_NAME", "RetrieverServicer"]
