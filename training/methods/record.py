"""Is the run folder: what a run was given, where it stands, what came out, and a lock against two at once.

A run folder holds

    run.json            everything a run was made from, and its result; enough to make it again
    metrics.jsonl       loss, learning rate and validation loss by step
    checkpoints/        while it runs
    adapter/            what came out of lora and prefix: adapter_config.json, adapter_model.safetensors
    model/              what came out of full: a base model folder
    mlflow.db           the local tracking store, unless a server was named
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.methods.plan import Method, MethodError

SCHEMA = 1
RUN, JOURNAL = "run.json", "metrics.jsonl"
# What a resumed run must have in common with the one that was cut off.
_SAME = ("method", "dataset", "base", "device", "threads")


@dataclass(frozen=True)
class Run:
    """Is a run folder as it lies on the disk."""

    folder: Path
    record: dict[str, Any]

    @property
    def method(self) -> Method:
        """Returns how it was trained."""
        return Method.from_json(self.record["method"])

    @property
    def base(self) -> Path:
        """Returns the base model's folder."""
        return Path(self.record["base"]["path"])

    @property
    def finished(self) -> bool:
        """Returns whether there is a result."""
        return bool(self.record["status"] == "finished")

    @property
    def result(self) -> dict[str, Any]:
        """Returns steps, losses, duration, energy and hashes of a finished run."""
        found: dict[str, Any] = self.record["result"]
        return found

    @property
    def weights(self) -> Path:
        """Returns the folder of what came out: adapter/ or model/."""
        return self.folder / ("model" if self.record["method"]["name"] == "full" else "adapter")

    @property
    def journal(self) -> Path:
        """Returns the file of metrics by step."""
        return self.folder / JOURNAL


def read_run(folder: Path) -> Run:
    """Reads a run folder; raises MethodError where there is none or where its weights are not those it recorded."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except OSError:
        raise MethodError(f"{folder} is no run folder; `tandem train run` makes one") from None
    except ValueError:
        raise MethodError(f"{folder / RUN} is not valid JSON; train again into another folder") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise MethodError(f"{folder} was written by another version; train again into another folder")
    run = Run(folder, record)
    if run.finished:
        for name, digest in run.result["files"].items():
            path = folder / name
            if not path.is_file() or file_sha256(path) != digest:
                raise MethodError(f"{path} is missing or was changed since it was trained; train again")
    return run


def write_run(run: Run) -> None:
    """Writes run.json in one step."""
    partial = run.folder / f".{RUN}.partial"
    partial.write_text(json.dumps(run.record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(run.folder / RUN)


def check_same(run: Run, wanted: Mapping[str, Any]) -> None:
    """Raises MethodError where a run that is to be resumed was started with something else."""
    for part in _SAME:
        old, new = run.record[part], wanted[part]
        if part == "base":
            old, new = old["sha256"], new["sha256"]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            differences = ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys[:5])
        else:
            differences = f"was {old}, is {new}"
        raise MethodError(
            f"{run.folder} was started otherwise ({part}: {differences}); resume it as it was, "
            "or train into another folder"
        )


def file_sha256(path: Path) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for this process; raises MethodError where another one trains into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MethodError(f"another process trains into {folder}; wait for it, or name another folder") from None
        yield
