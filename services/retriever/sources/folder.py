"""A folder that is watched by scanning: it sees every change on every file system, within an interval."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from services.retriever.domain import MAX_DOCUMENT_BYTES, MEDIA_TYPES, Header, Unreadable
from services.retriever.domain.uploads import Origin, Upload
from services.retriever.sources.config import SourceConfig
from services.retriever.sources.look import MARK, Item, Look, SourceFault, document_id

T = TypeVar("T")
_MAX_FILES = 100_000
_TIMEOUT_S = 60.0


class Folder:
    """Shows the files of known endings below a folder; hidden files and folders and symbolic links are passed over."""

    origin = Origin.FOLDER

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        # A thread of its own: a file system that hangs takes nothing from others.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"source {config.name}")

    async def look(self) -> Look | None:
        """Returns every file there is."""
        faults: list[str] = []
        return Look(items=await self._run(lambda: list(self._scan(faults))), faults=faults)

    def accept(self) -> None:
        """Does nothing: the next look shows everything again."""

    async def close(self) -> None:
        """Ends the thread, unless it hangs."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise SourceFault(f"reading the folder takes more than {_TIMEOUT_S:g} s; does its disk answer?") from None
        except OSError as error:
            raise SourceFault(f"the folder cannot be read: {error.strerror}; mend the folder or its rights") from error

    def _scan(self, faults: list[str]) -> Iterator[Item]:
        """Yields the files; raises OSError when the folder itself cannot be read."""
        pending = [(self._config.path, PurePosixPath())]
        count = 0
        while pending:
            folder, name = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                if not name.parts:
                    raise
                faults.append(f"the folder {name} cannot be read")
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                inner = name / entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, inner))
                elif entry.is_file(follow_symlinks=False) and inner.suffix.lower() in MEDIA_TYPES:
                    count += 1
                    if count > _MAX_FILES:
                        raise SourceFault(f"the folder holds more than {_MAX_FILES} files; divide it into several")
                    if item := self._item(entry, inner):
                        yield item

    def _item(self, entry: os.DirEntry[str], name: PurePosixPath) -> Item | None:
        try:
            state = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        identity = document_id(self._config.name, str(name))
        load = partial(self._load, entry.path, identity, name)
        return Item(document_id=identity, stamp=_stamp(state), changed=state.st_ctime, load=load)

    async def _load(self, path: str, identity: str, name: PurePosixPath) -> Upload | None:
        header = Header(
            source=str(name)[-255:].encode("utf-8", "replace").decode(),
            media_type=MEDIA_TYPES[name.suffix.lower()],
            groups=self._config.groups,
            attributes={MARK: self._config.name},
        )
        data = await self._run(lambda: _read(path))
        if data is None:
            return None
        fault = None
        if len(data) > MAX_DOCUMENT_BYTES:
            data, fault = b"", Unreadable("TOO_LARGE", f"the file has more than {MAX_DOCUMENT_BYTES} bytes")
        return Upload(document_id=identity, header=header, data=data, fault=fault)


def _read(path: str) -> bytes | None:
    """Returns the bytes, or a byte too many; None for a file that goes or changes meanwhile, or is none any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return None
        data = file.read(MAX_DOCUMENT_BYTES + 1)
        return data if _stamp(os.fstat(descriptor)) == _stamp(before) else None


def _stamp(state: os.stat_result) -> tuple[int, int, int, int]:
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino
