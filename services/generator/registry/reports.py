"""What is logged and counted when adapters come to serve, are refused or are withdrawn."""

import logging

from services.generator.domain import Adapter
from services.generator.metrics import GeneratorMetrics
from services.generator.registry.names import Replaced
from services.generator.registry.store import Key
from tandem.adapters import AdapterRefused, Refusal
from tandem.errors import FailedPrecondition

log = logging.getLogger(__name__)


class Reports:
    """Tells what happens; a fault that lasts is told once, however often it is met."""

    def __init__(self, metrics: GeneratorMetrics) -> None:
        self._metrics = metrics
        self._told: dict[Key, dict[str, str]] = {}
        """Of each adapter the last fault of the whole ("") and of single versions."""

    def serves(self, change: str, replaced: Replaced) -> None:
        """Tells what a name stands for now."""
        adapter = replaced.adapter
        log.info(
            "adapter serves",
            extra={
                "adapter": full(adapter),
                "change": change,
                "version": adapter.version,
                "sha256": adapter.sha256,
                "signer_key_id": adapter.signer_key_id,
                "cipher": adapter.cipher,
            },
        )

    def left_out(self, replaced: Replaced) -> None:
        """Tells which versions a name should stand for and does not; forgets the other faults of this adapter."""
        key = (replaced.adapter.tenant, replaced.adapter.name)
        told = self._told.pop(key, {})
        if replaced.refusals:
            self._told[key] = {version: explained(error) for version, error in replaced.refusals.items()}
        for version, error in replaced.refusals.items():
            if told.get(version) != explained(error):
                self._metrics.adapters_refused.inc()
                log.warning(
                    "version refused: %s",
                    explained(error),
                    exc_info=_unforeseen(error),
                    extra={"adapter": full(replaced.adapter), "version": version},
                )

    def fault(self, key: Key, error: Exception) -> None:
        """Tells why a state of the folder does not serve."""
        told = self._told.setdefault(key, {})
        if told.get("") != explained(error):
            told[""] = explained(error)
            self._metrics.adapters_refused.inc()
            _warn(key, error)

    def forget(self, key: Key) -> None:
        """Forgets the faults of an adapter."""
        self._told.pop(key, None)

    def refused(self, key: Key, error: AdapterRefused | OSError) -> FailedPrecondition:
        """Tells that an operator's change was refused, and returns what the operator is told."""
        self._metrics.adapter_loads.labels("refused").inc()
        _warn(key, error)
        code, message = "UNREADABLE", f"it cannot be read: {getattr(error, 'strerror', None)}"
        if isinstance(error, AdapterRefused):
            code, message = str(error.code), error.message
        about = {"adapter": key[1], "refusal": code}
        return FailedPrecondition(f"the adapter was refused: {message}", reason="ADAPTER_REFUSED", metadata=about)

    def withdrawn(self, adapter: Adapter, reason: str) -> None:
        """Tells that a version is taken from new calls."""
        log.warning(
            "adapter withdrawn: %s",
            reason,
            extra={"adapter": full(adapter), "version": adapter.version, "signer_key_id": adapter.signer_key_id},
        )


def full(adapter: Adapter) -> str:
    """Returns tenant and name."""
    return f"{adapter.tenant}/{adapter.name}"


def _warn(key: Key, error: Exception) -> None:
    log.warning("adapter refused: %s", explained(error), exc_info=_unforeseen(error), extra={"adapter": "/".join(key)})


def _unforeseen(error: Exception) -> BaseException | None:
    """Returns the failure whose trace belongs in the log, if there is one."""
    return error.__cause__ if isinstance(error, AdapterRefused) and error.code is Refusal.LOAD_FAILED else None


def explained(error: Exception) -> str:
    """Returns what the log says of a fault."""
    return f"{error.code}: {error.explained}" if isinstance(error, AdapterRefused) else str(error)
