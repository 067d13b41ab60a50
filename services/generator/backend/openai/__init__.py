"""Another server behind the generator's port, through its OpenAI-compatible API. Knows no torch."""

from services.generator.backend.openai.backend import OpenAiBackend
from services.generator.backend.openai.connection import connect

__all__ = ["OpenAiBackend", "connect"]
