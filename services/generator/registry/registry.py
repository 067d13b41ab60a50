"""Shows each caller its adapters, and keeps every version's weights until the last sequence that runs on it has ended.

A version is held once by its name and once by each pin. A newer version takes
over the name at once; the older one lives on until its pins are released, and
only then are its weights dropped. The count is kept on the event loop, where
pins are taken and released; loading and dropping happen in one thread, in the
order in which they were decided.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.generator.domain import SHARED_TENANT, Adapter, Adapters, Pin
from services.generator.metrics import GeneratorMetrics
from services.generator.registry.verify import AdapterRefused, Shapes, locate, scan, verify
from tandem.errors import FailedPrecondition, NotFound, Overloaded, PermissionDenied, TooLarge

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class _Version:
    """Counts what holds the weights of one version: its pins, and whether it is the one that its name stands for."""

    adapter: Adapter
    current: bool = True
    num_pins: int = 0


@dataclass(frozen=True)
class Replaced:
    """Tells what a name stands for after a load, and what it stood for before, which may be the same version."""

    adapter: Adapter
    before: Adapter | None


class NoAdapters:
    """Stands in the Adapters port's place for a backend that has none: nothing is ever loaded."""

    def load(self, adapter: Adapter) -> None:
        """Refuses."""
        raise ValueError("the backend has no adapters")

    def unload(self, key: str) -> None:
        """Does nothing."""


class Registry:
    """Holds the adapters that passed the checks. All methods belong on the event loop, Pin.release as well."""

    def __init__(
        self,
        *,
        adapters: Adapters,
        shapes: Shapes,
        folder: Path | None,
        max_adapters: int,
        metrics: GeneratorMetrics,
    ) -> None:
        self._adapters = adapters
        self._shapes = shapes
        self._folder = folder
        self._max_adapters = max_adapters
        self._metrics = metrics
        self._names: dict[tuple[str, str], _Version] = {}
        self._versions: dict[str, _Version] = {}
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Replaced]] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator-adapters")
        self._stopped = False

    def __len__(self) -> int:
        return len(self._names)

    async def start(self) -> None:
        """Loads what lies in the folder; what fails a check is logged and left out. Raises ConfigError as scan does."""
        if self._folder is None:
            return
        look = partial(scan, self._folder, self._shapes, max_adapters=self._max_adapters)
        good, refused = await self._work(look)
        self._metrics.adapters_refused.inc(refused)
        for adapter in good:
            try:
                await self._work(partial(self._adapters.load, adapter))
            except (ValueError, OSError) as error:
                self._metrics.adapters_refused.inc()
                log.warning("adapter refused: %s", error, extra={"adapter": _full(adapter)})
            else:
                self._appoint(adapter)
                log.info("adapter loaded", extra={"adapter": _full(adapter), "sha256": adapter.sha256})

    async def stop(self) -> None:
        """Ends the thread, after the load in progress; to be called when no sequence runs any longer."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    def find(self, name: str, *, tenant: str) -> Adapter:
        """Returns the tenant's adapter of that name, else the shared one; raises NotFound."""
        return self._find(name, tenant).adapter

    def pin(self, name: str, *, tenant: str) -> Pin:
        """Returns a hold on what `find` finds; raises NotFound."""
        version = self._find(name, tenant)
        version.num_pins += 1
        return Pin(version.adapter, lambda: self._unpin(version))

    def visible(self, tenant: str) -> list[Adapter]:
        """Returns what the tenant may use, by name; its own adapter hides a shared one of the same name."""
        loaded = [version.adapter for version in self._names.values()]
        shown = {a.name: a for a in loaded if a.tenant == SHARED_TENANT}
        shown |= {a.name: a for a in loaded if a.tenant == tenant}
        return [shown[name] for name in sorted(shown)]

    def num_pins(self, adapter: Adapter) -> int:
        """Returns how many pins hold this version."""
        version = self._versions.get(adapter.key)
        return version.num_pins if version is not None else 0

    async def load(self, name: str, *, tenant: str) -> Replaced:
        """Loads the version that lies in the tenant's folder now; sequences on an older one finish on it.

        A load goes on when its caller leaves. Raises NotFound, FailedPrecondition
        (ADAPTER_REFUSED), Overloaded where older versions still hold the room
        and TooLarge where it would not help to wait.
        """
        if tenant == SHARED_TENANT:
            raise PermissionDenied("shared adapters are loaded at the start only")
        task = asyncio.create_task(self._load(name, tenant), name="load adapter")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def unload(self, name: str, *, tenant: str) -> Adapter:
        """Takes the tenant's own adapter from new calls and returns it; raises NotFound."""
        version = self._names.get((tenant, name)) if tenant != SHARED_TENANT else None
        if version is None:
            raise _not_found(name)
        del self._names[(tenant, name)]
        self._retire(version)
        log.info("adapter unloaded", extra={"adapter": _full(version.adapter), "sha256": version.adapter.sha256})
        return version.adapter

    async def _load(self, name: str, tenant: str) -> Replaced:
        async with self._changing:
            place = await self._work(partial(self._locate, name, tenant))
            if place is None:
                raise NotFound("there is no such adapter to load", metadata={"adapter": name})
            try:
                adapter = await self._work(partial(verify, place, self._shapes))
                await self._bring(adapter)
            except (AdapterRefused, ValueError, OSError) as error:
                self._metrics.adapter_loads.labels("refused").inc()
                log.warning("adapter refused: %s", error, extra={"adapter": f"{tenant}/{name}"})
                raise FailedPrecondition(
                    f"the adapter was refused: {error}", reason="ADAPTER_REFUSED", metadata={"adapter": name}
                ) from error
            except Exception:
                self._metrics.adapter_loads.labels("failed").inc()
                raise
            before = self._appoint(adapter)
            same = before is not None and before.key == adapter.key
            self._metrics.adapter_loads.labels("unchanged" if same else "loaded").inc()
            log.info("adapter loaded", extra={"adapter": _full(adapter), "sha256": adapter.sha256})
            return Replaced(adapter, before)

    async def _bring(self, adapter: Adapter) -> None:
        """Makes sure that the version's weights are in memory, if there is room."""
        if adapter.key in self._versions:
            return
        old = self._names.get((adapter.tenant, adapter.name))
        # A version that no sequence holds leaves as soon as the new one is there: for that moment both are in memory.
        leaving = 1 if old is not None and old.num_pins == 0 else 0
        if len(self._versions) - leaving >= self._max_adapters:
            held = len(self._versions) - len(self._names)
            message = f"{len(self._versions)} adapters are in memory, of which {held} only until their sequences end"
            if held:
                raise Overloaded(message, retry_after_s=1.0, reason="TOO_MANY_ADAPTERS")
            raise TooLarge(f"{message}; unload one first", reason="TOO_MANY_ADAPTERS")
        await self._work(partial(self._adapters.load, adapter))

    def _appoint(self, adapter: Adapter) -> Adapter | None:
        """Lets the name stand for this version from now on, and returns what it stood for before."""
        old = self._names.get((adapter.tenant, adapter.name))
        version = self._versions.setdefault(adapter.key, _Version(adapter))
        version.current = True
        self._names[(adapter.tenant, adapter.name)] = version
        if old is not None and old is not version:
            self._retire(old)
        self._gauge()
        return old.adapter if old is not None else None

    def _find(self, name: str, tenant: str) -> _Version:
        found = self._names.get((tenant, name)) or self._names.get((SHARED_TENANT, name))
        if found is None:
            raise _not_found(name)
        return found

    def _retire(self, version: _Version) -> None:
        version.current = False
        self._drop_if_free(version)

    def _unpin(self, version: _Version) -> None:
        version.num_pins -= 1
        self._drop_if_free(version)

    def _drop_if_free(self, version: _Version) -> None:
        key = version.adapter.key
        if not version.current and version.num_pins == 0 and not self._stopped:
            del self._versions[key]
            self._thread.submit(self._adapters.unload, key).add_done_callback(_tell)
            self._metrics.adapter_unloads.inc()
        self._gauge()

    def _gauge(self) -> None:
        self._metrics.adapters.set(len(self._names))
        self._metrics.adapters_retired.set(len(self._versions) - len(self._names))

    def _locate(self, name: str, tenant: str) -> Path | None:
        return locate(self._folder, tenant=tenant, name=name) if self._folder is not None else None

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _full(adapter: Adapter) -> str:
    return f"{adapter.tenant}/{adapter.name}"


def _not_found(name: str) -> NotFound:
    return NotFound("no such adapter is loaded", metadata={"adapter": name})


def _tell(dropping: Future[None]) -> None:
    if error := dropping.exception():
        log.error("the weights of an adapter could not be dropped", exc_info=error)
