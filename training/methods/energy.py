"""Measures the energy of a run: from the machine's meters where it has any, else estimated from its load.

codecarbon works offline here: no place is looked up and nothing is sent. A
virtual machine without RAPL counters gets an estimate from the processor's
load and model; the record says which of the two a figure is.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Energy:
    """Is what a run has used so far, all parts of the machine together."""

    kwh: float
    source: str
    """"metered", "estimated", or "unknown" where codecarbon does not work on this machine."""


class Meter:
    """Measures from `start` to `stop`; what another process used of the machine counts only where it is metered."""

    def __init__(self, *, seconds: float = 15.0) -> None:
        self._seconds = seconds
        self._tracker: Any = None
        self._last = Energy(0.0, "unknown")

    def start(self) -> None:
        """Begins to measure, in a thread of codecarbon's own that takes a reading every few seconds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from codecarbon import OfflineEmissionsTracker

            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
            self._tracker = OfflineEmissionsTracker(
                country_iso_code="USA",  # only the carbon figure, which is not used, depends on it
                output_methods=[],
                output_handlers=[_Handler(self._take)],
                allow_multiple_runs=True,  # without it a lock takes over this process's signals
                tracking_mode="process",
                measure_power_secs=self._seconds,
                log_level="critical",
            )
            self._tracker.start()

    def read(self) -> Energy:
        """Returns the energy since the start, and goes on."""
        if self._tracker is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker.flush()
        return self._last

    def stop(self) -> Energy:
        """Returns the energy since the start, and ends; a second call returns the same."""
        if self._tracker is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker.stop()
            self._tracker = None
        return self._last

    def _take(self, kwh: float) -> None:
        modes = {getattr(part, "_mode", None) for part in getattr(self._tracker, "_hardware", ())}
        self._last = Energy(kwh, "metered" if "intel_rapl" in modes else "estimated")


class _Handler:
    """Hands codecarbon's readings on; has the methods of its BaseOutput."""

    def __init__(self, take: Callable[[float], None]) -> None:
        self._take = take

    def out(self, total: Any, delta: Any) -> None:
        """Takes a reading."""
        self._take(float(total.energy_consumed))

    def live_out(self, total: Any, delta: Any) -> None:
        """Does nothing: readings are asked for."""

    def task_out(self, data: Any, experiment_name: str) -> None:
        """Does nothing: there are no tasks."""

    def exit(self) -> None:
        """Does nothing."""
