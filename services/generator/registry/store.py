"""The adapter folder: which adapters and versions lie there, and what their aliases stand for.

Nothing here opens a version. What a name or a link could reach outside the
tenant's own folder counts as not there. All methods touch the disk, so none
belongs on the event loop.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tandem.adapters import ALIASES, NAME, TENANT, VERSION, VERSIONS, WEIGHTS, Aliases, read_aliases, write_aliases
from tandem.adapters.changing import changing_aliases
from tandem.errors import ConfigError, FailedPrecondition

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""A tenant and the name of one of its adapters."""
Stamp = tuple[int, int, int]
"""Tells one state of a file from another: time of change, size, inode."""
_MAX_VERSIONS_LISTED = 4096


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Is what lies on disk under one name; `versions` are ordered by name."""

    aliases: Aliases
    versions: tuple[str, ...]
    stamp: Stamp


class Store:
    """Reads and changes the adapter folder; without one there is nothing."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._told: set[str] = set()

    def survey(self) -> dict[Key, Stamp]:
        """Returns every adapter that has aliases, with their state; raises ConfigError where the folder is missing."""
        if self.root is None:
            return {}
        if not self.root.is_dir():
            raise ConfigError(f"the adapter folder {self.root} does not exist")
        found: dict[Key, Stamp] = {}
        for place in sorted(self.root.glob("*/*")):
            key = (place.parent.name, place.name)
            if place.name.startswith(".") or not place.is_dir():
                continue
            if self._folder(key) is None:
                self._tell(key, "names are letters, digits, '.', '_' and '-', at most 64, and no folder is a link")
            elif (stamp := _stamp(place / ALIASES)) is not None:
                found[key] = stamp
            elif (place / WEIGHTS).exists():
                self._tell(key, "unsigned weights without versions are not loaded: `tandem train register` signs them")
        return found

    def read(self, key: Key) -> Stored | None:
        """Returns what lies under the name, None where nothing does; raises AdapterRefused and OSError."""
        folder = self._folder(key)
        # The state first: a change between the two reads is then seen as one the next time.
        stamp = _stamp(folder / ALIASES) if folder is not None else None
        if folder is None or stamp is None:
            return None
        aliases = read_aliases(folder)
        return Stored(aliases=aliases, versions=_versions(folder), stamp=stamp) if aliases is not None else None

    def place(self, key: Key, version: str) -> Path | None:
        """Returns the folder of a version, None where there is none."""
        folder = self._folder(key)
        if self.root is None or folder is None or not VERSION.fullmatch(version):
            return None
        return _inside(folder / VERSIONS / version, self.root)

    def change(self, key: Key, change: Callable[[Aliases], Aliases], *, expected: Aliases) -> Stored:
        """Replaces the aliases, if they are still the expected ones, and returns what lies there then.

        Raises FailedPrecondition (ADAPTER_CHANGED, ADAPTER_FOLDER_READ_ONLY) and AdapterRefused.
        """
        name = {"adapter": key[1]}
        try:
            folder = self._folder(key)
            if folder is None:
                raise FailedPrecondition("the adapter is gone", reason="ADAPTER_CHANGED", metadata=name)
            with changing_aliases(folder):
                found = read_aliases(folder)
                if found != expected:
                    message = "the aliases were changed by somebody else meanwhile: look, and try again"
                    raise FailedPrecondition(message, reason="ADAPTER_CHANGED", metadata=name)
                wanted = change(expected)
                if wanted != expected:
                    write_aliases(folder, wanted)
                stamp = _stamp(folder / ALIASES) or (0, 0, 0)
            return Stored(aliases=wanted, versions=_versions(folder), stamp=stamp)
        except TimeoutError as error:
            message = f"the aliases are being changed: {error.strerror}; nothing was changed here, try again"
            raise FailedPrecondition(message, reason="ADAPTER_CHANGED", metadata=name) from error
        except OSError as error:
            message = f"the aliases cannot be written: {error.strerror}; nothing was changed"
            raise FailedPrecondition(message, reason="ADAPTER_FOLDER_READ_ONLY", metadata=name) from error

    def _folder(self, key: Key) -> Path | None:
        tenant, name = key
        if self.root is None or not TENANT.fullmatch(tenant) or not NAME.fullmatch(name):
            return None
        return _inside(self.root / tenant / name, self.root)

    def _tell(self, key: Key, reason: str) -> None:
        """Logs once why a folder is passed over."""
        full = "/".join(key)
        if full not in self._told:
            self._told.add(full)
            log.warning("folder passed over: %s", reason, extra={"adapter": full[:200]})


def _inside(path: Path, root: Path) -> Path | None:
    """Returns the path if it is a folder and no link below the root leads there."""
    try:
        honest = path.resolve(strict=True) == root.resolve(strict=True) / path.relative_to(root)
    except (OSError, RuntimeError, ValueError):  # not there, links in a circle, a name with a null byte
        return None
    return path if honest and path.is_dir() else None


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _versions(folder: Path) -> tuple[str, ...]:
    try:
        names = sorted(path.name for path in (folder / VERSIONS).iterdir() if VERSION.fullmatch(path.name))
    except OSError:
        return ()
    return tuple(names[:_MAX_VERSIONS_LISTED])
