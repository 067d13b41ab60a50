"""The few things that the spool does to the disk, each durable when it returns; tests replace it by one that breaks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path


class Disk:
    """Changes files. What a crash leaves of a change is the old, the new, or of `write` and `append` a part."""

    def make(self, folder: Path) -> None:
        """Makes a folder, and those above it, where they do not exist."""
        if folder.is_dir():
            return
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in missing:
            self._sync(path.parent)

    def write(self, path: Path, *pieces: bytes) -> None:
        """Writes a new file in a folder that `move` or `replace` will make known."""
        with path.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())

    def append(self, path: Path, line: bytes) -> None:
        """Adds to a file, which is made if need be."""
        new = not path.exists()
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            self._sync(path.parent)

    def cut(self, path: Path, size: int) -> None:
        """Shortens a file."""
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def move(self, source: Path, target: Path) -> None:
        """Renames a file or a folder with all that it holds, replacing a file."""
        if source.is_dir():
            self._sync(source)
        source.replace(target)
        self._sync(target.parent)

    def remove(self, path: Path) -> None:
        """Removes a file or a folder, if it is there; that need not outlast a crash."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _sync(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def size_on_disk(path: Path) -> int:
    """Returns about how much of the disk a file takes; one that is gone takes none."""
    try:
        return rounded(path.stat().st_size)
    except FileNotFoundError:
        return 0


def rounded(size: int) -> int:
    """Returns what a file of so many bytes takes in blocks."""
    return -(-size // 4096) * 4096


def folders(path: Path) -> Iterator[Path]:
    """Yields the folders in a folder, by name; none where it does not exist."""
    if path.is_dir():
        yield from sorted(entry for entry in path.iterdir() if entry.is_dir())
