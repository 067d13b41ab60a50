"""Says what of a run the tracking store hears, also after a process was killed before all of it was told."""

from pathlib import Path

from training.methods.record import RUN, Run, write_run
from training.methods.tracking import Tracker, track
from training.methods.watch import Journal


def tracker_of(run: Run, uri: str | None, *, experiment: str, until: int | None = None) -> Tracker:
    """Opens a run's record in the store, or goes on with it, and notes it in run.json.

    What the journal holds up to the step `until` (None: all) and the store does not is told first. Raises MethodError
    where the store cannot be reached.
    """
    record = run.record
    earlier = record.get("tracking", {})
    parameters = {f"method.{key}": value for key, value in record["method"].items()}
    parameters |= {f"data.{name}": digest for name, digest in record["dataset"]["inputs"].items()}
    parameters |= {f"dataset.{key}": record["dataset"][key] for key in ("sha256", "recipe", "seed", "counts")}
    parameters |= {f"base.{key}": record["base"][key] for key in ("name", "sha256")}
    parameters |= {f"version.{name}": version for name, version in record["versions"].items()}
    parameters |= {key: record[key] for key in ("code_version", "device", "threads", "created")}
    tracker = track(
        uri,
        folder=run.folder,
        experiment=experiment,
        name=run.folder.name,
        parameters=parameters,
        run_id=earlier.get("run_id") if earlier.get("asked") == uri else None,
    )
    record["tracking"] = {"asked": uri, "run_id": getattr(tracker, "run_id", None)}
    write_run(run)
    for row in Journal.read(run.journal) if run.journal.exists() else []:
        step = int(row.pop("step"))
        if until is None or step <= until:
            tracker.metrics(step, row)
    return tracker


def finish(run: Run, tracker: Tracker, status: str = "FINISHED") -> None:
    """Ends the record with the run's end figures and artefacts, if it came to them, and notes how in run.json."""
    artefacts: dict[Path, str | None] = {}
    if status == "FINISHED":
        result = run.result
        tracker.metrics(result["steps"] + 1, {"energy_kwh": result["energy"]["kwh"], "minutes": result["minutes"]})
        artefacts = {run.folder / RUN: None, run.journal: None}
        artefacts |= dict.fromkeys(sorted(run.weights.iterdir()), run.weights.name)
    run.record["tracking"] |= tracker.finish(status, artefacts)
    write_run(run)
