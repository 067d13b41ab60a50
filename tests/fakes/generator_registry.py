"""A registry over a folder of signed versions, with adapters in memory that hold no weights."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.generator.metrics import GeneratorMetrics
from services.generator.registry import KeyFiles, Registry, Rules, Shown, verify
from tandem.adapters import Aliases, read_aliases, write_aliases
from tandem.errors import TandemError
from tests.fakes.adapter_versions import BASE, keys
from tests.fakes.generator_adapters import SHAPES, FakeAdapters, place, rules

CHECK = partial(verify, rules=Rules(shapes=SHAPES, base_sha256=BASE, keys=keys))
"""Lets in what fits SHAPES and the key that everybody knows has signed."""


@dataclass
class Bench:
    """Is a registry, its folder and what it holds in memory; `lot` decides the next calls."""

    folder: Path
    memory: FakeAdapters
    registry: Registry
    collectors: CollectorRegistry
    lot: float = 0.5

    def metric(self, name: str, **labels: str) -> float:
        """Returns a metric of the generator, 0 where it has not been set."""
        return self.collectors.get_sample_value(f"tandem_generator_{name}", labels) or 0.0

    def versions(self, *fills: int) -> list[str]:
        """Writes versions of halden's adapter "answers" that no alias names, and returns them."""
        return [place(self.folder, fill=fill, stable=False).name for fill in fills]

    def alias(self, stable: str, candidate: str | None = None, share: float = 0.0, *history: str) -> None:
        """Has halden's aliases say so, as another process would."""
        wanted = Aliases(stable=stable, candidate=candidate, canary_share=share, history=history)
        write_aliases(self.folder / "halden" / "answers", wanted)

    def on_disk(self) -> Aliases:
        """Returns halden's aliases in the folder."""
        found = read_aliases(self.folder / "halden" / "answers")
        if found is None:
            raise LookupError("there are no aliases")
        return found

    def got(self, name: str = "answers", *, tenant: str = "halden") -> str:
        """Returns the version that a call by the name gets."""
        with_pin = self.registry.pin(name, tenant=tenant)
        with_pin.release()
        return with_pin.adapter.version

    async def until(self, version: str) -> None:
        """Waits until calls get this version."""
        for _ in range(6_000):
            if self.got() == version:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"no call ever got {version}")

    def shown(self, tenant: str = "halden") -> Shown:
        """Returns how the tenant's only adapter is shown."""
        (shown,) = self.registry.visible(tenant)
        return shown

    async def settled(self) -> list[str]:
        """Returns what is in memory once the dropping that was decided has been done."""
        await self.registry._holdings.work(lambda: None)
        return sorted(self.memory.held)


@asynccontextmanager
async def opened(
    folder: Path | None,
    *,
    room: int = 8,
    gate: threading.Semaphore | None = None,
    refresh_s: float = 0.0,
    trusted: KeyFiles | None = None,
    fail: Exception | None = None,
) -> AsyncIterator[Bench]:
    """Starts a registry and stops it after the block.

    `trusted` are keys in place of those that CHECK knows; `fail` is raised by the first load.
    """
    collectors = CollectorRegistry()
    memory = FakeAdapters(gate=gate)
    memory.fail = fail
    registry = Registry(
        adapters=memory,
        check=CHECK if trusted is None else partial(verify, rules=rules(keys=trusted)),
        trust=None if trusted is None else trusted.trust,
        folder=folder,
        max_adapters=room,
        metrics=GeneratorMetrics(collectors),
        refresh_s=refresh_s,
        draw=lambda: bench.lot,
    )
    bench = Bench(folder or Path(), memory, registry, collectors)
    try:
        await registry.start()
        yield bench
    finally:
        await registry.stop()
    if memory.overlaps:
        raise RuntimeError("the port was called from two threads at once")


async def refused(call: Callable[[], object], kind: type[TandemError]) -> TandemError:
    """Returns how a call fails, which it must."""

    async def attempt() -> None:
        outcome = call()
        if asyncio.iscoroutine(outcome):
            await outcome

    with pytest.raises(kind) as caught:
        await attempt()
    return caught.value
