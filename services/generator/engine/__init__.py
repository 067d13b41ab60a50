"""The scheduler of the generator: plain Python, no tensors."""

from services.generator.engine.engine import Engine
from services.generator.engine.text import TextStream

__all__ = ["Engine", "TextStream"]
