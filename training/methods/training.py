"""Trains: a dataset, a base model and a method in, a run folder out; a run that was killed goes on where it stood."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from training.examples import Dataset
from training.methods import models
from training.methods.checkpoints import Checkpoints
from training.methods.plan import Method, MethodError
from training.methods.provenance import code_version, hardware, now, versions
from training.methods.record import RUN, SCHEMA, Run, check_same, locked, read_run, write_run
from training.methods.tracked import finish, tracker_of
from training.methods.watch import Progress
from training.methods.work import Outcome, Work


def train(
    dataset: Dataset,
    *,
    base: Path,
    method: Method,
    out: Path,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
    tracking: str | None = None,
    experiment: str = "tandem",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Trains into the folder `out`, which must be new, unless a run that was cut off there is to be resumed.

    `tracking` is the URI of an MLflow store, None for one in the run folder, "off" for none. `threads` are those of
    the processor, None for all. Raises MethodError for whatever the caller can mend. What a finished run is asked
    to resume is returned as it is.
    """
    out = out.expanduser()
    base = models.check_base(base)
    models.check_device(device)
    if not resume and (out / RUN).exists():
        raise MethodError(f"there is a run in {out} already; resume it, or name another folder")
    if resume and not (out / RUN).exists():
        raise MethodError(f"there is no run to resume in {out}")
    with locked(out), _settled(threads or os.cpu_count() or 1):
        run = _open(out, dataset, base=base, method=method, device=device, resume=resume)
        if run.finished:
            _settle(run, tracking, experiment=experiment)
            return Outcome(run, None)
        return Work(run, dataset, device=device, tracking=tracking, experiment=experiment).do(on_progress)


def _settle(run: Run, tracking: str | None, *, experiment: str) -> None:
    """Does what a process had left to do that was killed after its result was written."""
    tracked = run.record["tracking"]
    if tracked.get("run_id") and "complete" not in tracked:
        finish(run, tracker_of(run, tracking, experiment=experiment))
    Checkpoints(run.folder / "checkpoints").clear()


def _open(out: Path, dataset: Dataset, *, base: Path, method: Method, device: str, resume: bool) -> Run:
    given = {
        "method": method.to_json(),
        "dataset": {
            "sha256": dataset.sha256,
            "recipe": dataset.recipe,
            "seed": dataset.seed,
            "config": dataset.config,
            "counts": dataset.counts,
            "inputs": dataset.inputs,
            "files": dataset.files,
            "prompts_version": dataset.prompts_version,
        },
        "base": {"name": base.name, "sha256": models.base_sha256(base), "path": str(base.resolve())},
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if resume:
        run = read_run(out)
        check_same(run, given)
        return run
    made = {
        "created": now(),
        "code_version": code_version(),
        "versions": versions(),
        "hardware": hardware(device),
    }
    run = Run(out, {"schema": SCHEMA, "status": "running", **given, **made})
    write_run(run)
    return run


@contextlib.contextmanager
def _settled(threads: int) -> Iterator[None]:
    """Computes with so many threads, on which the last bits of a result depend, and without others' output."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with models.quietly():
            yield
    finally:
        torch.set_num_threads(before)
