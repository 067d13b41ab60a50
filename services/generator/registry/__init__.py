"""Which adapters there are, who may use them, and how long their weights stay in memory."""

from services.generator.registry.registry import NoAdapters, Registry, Replaced
from services.generator.registry.verify import CONFIG, WEIGHTS, AdapterRefused, Shapes, scan, verify

__all__ = ["CONFIG", "WEIGHTS", "AdapterRefused", "NoAdapters", "Registry", "Replaced", "Shapes", "scan", "verify"]
