"""Keeps other writers of an adapter's aliases out while one changes them."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".aliases.lock"
_PAUSE_S = 0.02


@contextmanager
def changing_aliases(folder: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Holds the adapter's folder <root>/<tenant>/<name> against other writers until the block ends.

    To be held only from reading the aliases to writing them, never while
    weights are trained or loaded. Readers need no lock: the file is replaced
    in one step. Raises TimeoutError where another writer does not let go,
    and OSError where the folder cannot be written.
    """
    end = time.monotonic() + timeout_s
    with (folder / LOCK).open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A lock on a file tells nobody when it is let go.
                if time.monotonic() >= end:
                    raise TimeoutError(errno.ETIMEDOUT, "another writer holds them", str(folder)) from None
                time.sleep(_PAUSE_S)
        yield
