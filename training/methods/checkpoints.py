"""Keeps a run's checkpoints: each appears whole or not at all, whatever kills the process.

A checkpoint is filled in a scratch folder beside the others, brought to the
disk, and named by one rename. What a killed process left half-written is
swept away by the next one.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

_NAME = re.compile(r"step-(\d{8})")
_SCRATCH = ".writing-"


class Checkpoints:
    """Is the folder of one run's checkpoints; one process at a time may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Removes what a killed process left half-written."""
        for stale in self.folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(stale, ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps that there are checkpoints of, the earliest first."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def at(self, step: int) -> Path:
        """Returns where the checkpoint of a step lies, or would lie."""
        return self.folder / f"step-{step:08d}"

    def write(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Lets `fill` write a checkpoint's files into a scratch folder, and names it when all is on the disk."""
        place = self.at(step)
        if place.is_dir():  # the same step of the same run: nothing in it could differ
            return place
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder))
        try:
            fill(scratch)
            for path in scratch.iterdir():
                _sync(path)
            _sync(scratch)
            scratch.rename(place)
            _sync(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return place

    def prune(self, keep: Collection[int]) -> None:
        """Removes every checkpoint but the latest and those named."""
        steps = self.steps()
        for step in steps[:-1]:
            if step not in keep:
                shutil.rmtree(self.at(step), ignore_errors=True)

    def clear(self) -> None:
        """Removes all of them: the run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
