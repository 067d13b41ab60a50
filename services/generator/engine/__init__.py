"""The engine of the generator: a scheduler in plain Python, and the loop that runs its steps on a runner."""

from services.generator.engine.engine import Engine
from services.generator.engine.text import TextStream

__all__ = ["Engine", "TextStream"]
