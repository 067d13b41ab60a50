"""Which adapters there are, who may use them, and how long their weights stay in memory."""

from services.generator.registry.entries import Shown, ShownVersion, VersionState
from services.generator.registry.keys import KeyFiles, Keys
from services.generator.registry.names import Check, Replaced
from services.generator.registry.registry import NoAdapters, Registry
from services.generator.registry.tensors import Shapes
from services.generator.registry.verify import Rules, verify

__all__ = [
    "Check",
    "KeyFiles",
    "Keys",
    "NoAdapters",
    "Registry",
    "Replaced",
    "Rules",
    "Shapes",
    "Shown",
    "ShownVersion",
    "VersionState",
    "verify",
]
