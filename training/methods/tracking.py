"""Tells MLflow what a run does: parameters, data hashes, metrics by step, energy, artefacts.

By default the store lies in the run folder (mlflow.db, to be opened with
`mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`); a server is given by
its URI. A server that is away at the start is an error that says so. One that
goes away later costs nothing but its copy: what it missed is sent when it is
back, and metrics.jsonl and run.json in the run folder hold all of it anyway.
"""

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from training.methods.plan import MethodError

log = logging.getLogger(__name__)

OFF = "off"
_FLUSH_S, _RETRY_S = 10.0, 60.0
_MAX_BATCH = 1000
_MAX_ARTEFACT = 100 * 1024 * 1024
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": 1, "MLFLOW_HTTP_REQUEST_TIMEOUT": 10}
_UNFIT = re.compile(r"[^A-Za-z0-9_\-. /]")


class Tracker(Protocol):
    """Hears of a run."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step; never raises because a server is away."""

    def finish(self, status: str, artefacts: Mapping[Path, str | None]) -> dict[str, Any]:
        """Ends the run as "FINISHED", "FAILED" or "KILLED"; returns what run.json says about it.

        Each artefact goes into the folder named with it, None being the run's own.
        """


class NoTracker:
    """Hears nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Does nothing."""

    def finish(self, status: str, artefacts: Mapping[Path, str | None]) -> dict[str, Any]:
        """Returns that nothing was tracked."""
        return {"uri": None}


class MlflowTracker:
    """Sends a run to MLflow every few seconds, from the caller's thread, and waits for no answer longer than those."""

    def __init__(self, client: Any, run_id: str, uri: str, *, known: int = -1) -> None:
        self._client = client
        self._uri = uri
        self.run_id = run_id
        self._known = known
        self._waiting: list[Any] = []
        self._next = time.monotonic() + _FLUSH_S
        self._away = False

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step; those that the store had of an earlier process are not told again."""
        from mlflow.entities import Metric

        if step <= self._known:
            return
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if time.monotonic() >= self._next:
            self._flush()

    def finish(self, status: str, artefacts: Mapping[Path, str | None]) -> dict[str, Any]:
        """Sends what is left; returns where the run can be found, and whether all of it is there."""
        complete = self._flush() and self._send(lambda: self._close(status, artefacts))
        return {"uri": self._uri, "run_id": self.run_id, "complete": complete}

    def _close(self, status: str, artefacts: Mapping[Path, str | None]) -> None:
        for path, folder in artefacts.items():
            if path.stat().st_size <= _MAX_ARTEFACT:
                self._client.log_artifact(self.run_id, str(path), folder)
        self._client.set_terminated(self.run_id, status=status)

    def _flush(self) -> bool:
        while self._waiting:
            some = self._waiting[:_MAX_BATCH]
            if not self._send(partial(self._client.log_batch, self.run_id, metrics=some)):
                return False
            del self._waiting[: len(some)]
        self._next = time.monotonic() + _FLUSH_S
        return True

    def _send(self, work: Callable[[], Any]) -> bool:
        """Returns whether it worked; says once that a store is away, and once that it is back."""
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                work()
        except (MlflowException, OSError, ImportError) as error:  # a store of artefacts may need a library of its own
            self._next = time.monotonic() + _RETRY_S
            if not self._away:
                log.warning("the tracking store %s is away; metrics are kept in the run folder: %s", self._uri, error)
            self._away = True
            return False
        if self._away:
            log.info("the tracking store %s is back", self._uri)
        self._away = False
        return True


def track(
    uri: str | None,
    *,
    folder: Path,
    experiment: str,
    name: str,
    parameters: Mapping[str, Any],
    run_id: str | None = None,
) -> Tracker:
    """Opens a run in the store at `uri`, in the run folder where it is None, nowhere where it is "off".

    With run_id, an earlier run is gone on with. Raises MethodError where the store cannot be reached.
    """
    if uri == OFF:
        return NoTracker()
    place = uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is read when mlflow is imported
    with _quiet():
        from mlflow import environment_variables
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # Its own defaults wait for many minutes; a run must not.
        for setting, value in _PATIENCE.items():
            variable: Any = getattr(environment_variables, setting)
            if not variable.is_set():
                variable.set(value)
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        try:
            client = MlflowClient(tracking_uri=place)
            run = _run(client, experiment, name, parameters, folder if uri is None else None, run_id)
            known = _last_step(client, run) if run_id is not None else -1
        except (MlflowException, OSError) as error:
            raise MethodError(
                f"the tracking store {place} cannot be used: {str(error)[:300]}; start it, unset MLFLOW_TRACKING_URI "
                f'to keep the record in the run folder, or turn tracking "{OFF}"'
            ) from None
    return MlflowTracker(client, run, place, known=known)


def _last_step(client: Any, run_id: str) -> int:
    """Returns the last step whose loss the store has, -1 without any."""
    return max((metric.step for metric in client.get_metric_history(run_id, "loss")), default=-1)


def _run(
    client: Any, experiment: str, name: str, parameters: Mapping[str, Any], local: Path | None, run_id: str | None
) -> str:
    from mlflow.entities import Param

    if run_id is not None:
        client.update_run(run_id, status="RUNNING")
        return run_id
    found = client.get_experiment_by_name(experiment)
    artefacts = (local / "mlflow-artifacts").resolve().as_uri() if local is not None else None
    number = found.experiment_id if found else client.create_experiment(experiment, artifact_location=artefacts)
    run = str(client.create_run(number, run_name=name).info.run_id)
    rows = [Param(_UNFIT.sub("_", key)[:250], str(value)[:6000]) for key, value in parameters.items()]
    for start in range(0, len(rows), 100):
        client.log_batch(run, params=rows[start : start + 100])
    return run


class _quiet(warnings.catch_warnings):  # noqa: N801  (reads as what it does)
    """Keeps warnings about MLflow's own use of its libraries from the user."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore")
        return result
