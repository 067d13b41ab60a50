"""Keeps models that take long to make, under the hash of all that they are made from."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

_SUMS = "sha256.json"


def kept(
    home: Path,
    made_from: Sequence[str],
    *,
    make: Callable[[], T],
    write: Callable[[T, Path], None],
    read: Callable[[Path], T],
) -> T:
    """Returns what was made from the same before, else makes and keeps it.

    ``write`` and ``read`` are given a folder. What is broken is made anew; where nothing can be kept, the log says so.
    """
    target = home / hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()[:32]
    if target.is_dir():
        try:
            if json.loads((target / _SUMS).read_bytes()) != _sums(target):
                raise ValueError("its files are not those that were written")
            return read(target)
        except (OSError, ValueError, RuntimeError) as error:
            log.warning("a kept model is broken and is made anew", extra={"folder": str(target), "error": str(error)})
            shutil.rmtree(target, ignore_errors=True)
    made = make()
    try:
        _keep(target, lambda folder: write(made, folder))
    except OSError as error:
        if not target.is_dir():  # else another process was faster
            log.warning("the model is not kept", extra={"folder": str(home), "error": str(error)})
    return made


def _keep(target: Path, write: Callable[[Path], None]) -> None:
    """Writes the folder in one step: nobody finds it half written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        write(made)
        (made / _SUMS).write_text(json.dumps(_sums(made)))
        made.rename(target)


def _sums(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _SUMS:
            with path.open("rb") as stream:
                found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
