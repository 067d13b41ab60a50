"""Runs Milvus Lite 2.5 as a child process of this one, on a unix socket that only this user can reach.

pymilvus could start it too, but then nobody would notice its death, clear up after a kill -9, or keep a second process
off the file. Facts that this rests on: the engine ends by itself about two seconds after the lock that its parent holds
is released, be it by kill -9; it needs HOME in its environment; its socket may be anywhere, so each start takes a new
one and a stale socket is in nobody's way.
"""

import asyncio
import fcntl
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import TextIO

from tandem.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,36}")
_FOLDER = "tandem-milvus-"
_ORPHAN_WAIT_S = 20.0
_STOP_WAIT_S = 5.0


class LiteServer:
    """Owns the engine's process, its lock and its socket. One at a time may own a file, in this process or another."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._folder: str | None = None
        self._owner: TextIO | None = None
        self._engine_lock: TextIO | None = None
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> str:
        """Starts the engine and returns its address; raises ConfigError, or Unavailable when it cannot start now."""
        binary = _binary()
        if not _NAME.fullmatch(self._path.name):
            raise ConfigError(f"Milvus Lite takes file names of 1 to 36 letters, digits, '.', '_', '-': {self._path}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._own()
        await self._take_engine_lock()
        self._folder = tempfile.mkdtemp(prefix=_FOLDER)  # private to this user; short enough for a socket's path
        socket = Path(self._folder) / "milvus.sock"
        env = {"LD_LIBRARY_PATH": str(binary.parent), "HOME": self._folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self._process = await asyncio.create_subprocess_exec(
            str(binary), str(self._path), f"unix:{socket}", "ERROR", str(self._beside("lock")),
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, env=env, cwd=self._path.parent,
        )  # fmt: skip
        self._beside("pid").write_text(f"{self._process.pid}\n{self._folder}\n")
        return f"unix:{socket}"

    async def wait(self) -> int:
        """Returns the engine's exit status once it has ended."""
        if self._process is None:
            raise Unavailable("Milvus Lite is not running")
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends the engine and lets go of the file."""
        if self._engine_lock is not None:
            self._engine_lock.close()  # the engine ends when it gets the lock
            self._engine_lock = None
        process, self._process = self._process, None
        if process is not None:
            try:
                async with asyncio.timeout(_STOP_WAIT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            self._beside("pid").unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def _beside(self, ending: str) -> Path:
        return self._path.parent / f".{self._path.name}.{ending}"

    def _own(self) -> None:
        """Takes the lock that a living retriever holds; the kernel frees it however that one ends."""
        self._owner = self._beside("owner").open("a")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._owner.close()
            self._owner = None
            raise ConfigError(
                f"{self._path} is in use by another process; Milvus Lite serves one retriever. End the other one, or "
                "set RETRIEVER_MILVUS_URI to another file or to a Milvus server"
            ) from None

    async def _take_engine_lock(self) -> None:
        """Waits for an engine whose retriever was killed to end, and ends it if it does not."""
        self._engine_lock = self._beside("lock").open("a")
        orphan = self._orphan()
        for attempt in range(int(_ORPHAN_WAIT_S * 10)):
            try:
                fcntl.lockf(self._engine_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if orphan is None or not _is_engine(orphan, self._path):
                    self._clear_up()
                    return
                fcntl.lockf(self._engine_lock, fcntl.LOCK_UN)  # the engine wants it, in order to end
            except BlockingIOError:
                pass
            if attempt == 50 and orphan is not None and _is_engine(orphan, self._path):
                log.warning("ending a Milvus Lite that outlived its retriever", extra={"pid": orphan})
                os.kill(orphan, 9)
            # Another process holds the lock and says nothing when it lets go: this one wait has to look again.
            await asyncio.sleep(0.1)
        raise Unavailable(f"{self._path} is locked by a process that does not end", retry_after_s=5.0)

    def _clear_up(self) -> None:
        """Removes the socket's folder of a retriever that could not."""
        try:
            folder = Path(self._beside("pid").read_text().splitlines()[1])
        except (OSError, IndexError):
            return
        if folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)

    def _orphan(self) -> int | None:
        try:
            pid = int(self._beside("pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if _is_engine(pid, self._path) else None


def _is_engine(pid: int, path: Path) -> bool:
    """Tells whether the process is a Milvus Lite on that file; process ids are used again."""
    try:
        parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(parts) > 1 and parts[0].endswith(b"/milvus") and parts[1] == os.fsencode(path)


def _binary() -> Path:
    # Found without importing the package, which warns about pkg_resources and would start engines of its own.
    spec = importlib.util.find_spec("milvus_lite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(folder) / "lib" / "milvus"
        if binary.exists():
            return binary
    raise ConfigError("Milvus Lite is not installed (pip install milvus-lite==2.5.1); or set RETRIEVER_MILVUS_URI")
