"""A folder of domains, read anew as its files change."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.router.domain import Domain, ListedDomain
from services.router.domains.one import unknown
from services.router.domains.reading import DomainReader, Reading, mark_of
from services.router.metrics import RouterMetrics
from tandem.errors import ConfigError, FailedPrecondition
from tandem.security import Principal

log = logging.getLogger(__name__)
_DEFAULT = "default"


@dataclass(frozen=True)
class _Held:
    """Is the newest reading of a file, and the last domain that it was good for."""

    reading: Reading
    good: Domain | None

    def is_for(self, principal: Principal) -> bool:
        """Tells whether a caller may ask it, were it good; what does not tell whom it is for is the platform's.

        But the default one is everybody's: were it passed over, questions would go to another domain unnoticed.
        """
        tenants = self.reading.tenants if self.good is None else self.good.tenants
        if tenants is None:
            return "platform" in principal.roles or self.reading.name == _DEFAULT
        return not tenants or principal.tenant in tenants


class DomainFolder:
    """Implements services.router.domain.Domains by `<name>.toml` files.

    A faulty file keeps its last good version in use; a removed one takes its domain along.
    """

    def __init__(self, folder: Path, *, reader: DomainReader, metrics: RouterMetrics, refresh_s: float) -> None:
        self._folder = folder
        self._reader = reader
        self._metrics = metrics
        self._refresh_s = refresh_s
        self._held: Mapping[str, _Held] = {}
        self._lost = False
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the folder, and from then on what changes in it; raises ConfigError where it is none."""
        if not await asyncio.to_thread(self._folder.is_dir):
            raise ConfigError(
                f"ROUTER_DOMAINS_DIR is {self._folder}, which is no folder: make it, or unset the variable to serve "
                "one domain by the other settings"
            )
        await self.refresh()
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Reads no more."""
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling

    async def refresh(self) -> None:
        """Reads what has changed, beside the event loop."""
        before = self._held
        try:
            found = await asyncio.to_thread(self._scan, before)
        except OSError as error:
            # As long as the folder cannot be read, what was read of it stays.
            if not self._lost:
                log.warning("domains cannot be read", extra={"error": error.strerror})
            self._lost = True
            return
        self._lost = False
        self._held = found
        for name, held in found.items():
            if name not in before or before[name].reading is not held.reading:
                self._tell(held.reading)
        for name in before.keys() - found.keys():
            log.info("domain removed", extra={"domain": name})
            self._metrics.domain_loads.labels("removed").inc()

    def find(self, name: str, principal: Principal) -> Domain:
        """Returns a domain; raises NotFound, or FailedPrecondition where its file was never good."""
        wanted = name or self.default(principal)
        held = self._held.get(wanted)
        if held is None or not held.is_for(principal):
            raise unknown(wanted)
        if held.good is None:
            raise FailedPrecondition(
                f'the file of the domain "{wanted}" is at fault; `tandem domains` tells why',
                reason="DOMAIN_INVALID",
                metadata={"domain": wanted},
            )
        return held.good

    def default(self, principal: Principal) -> str:
        """Returns "default" where the caller may ask that, else the first by name; "" where there is none."""
        names = [name for name, held in self._held.items() if held.is_for(principal)]
        return _DEFAULT if _DEFAULT in names else min(names, default="")

    def list(self, principal: Principal) -> tuple[ListedDomain, ...]:
        """Returns the domains that the caller may ask, with what is wrong with the newest version of their files.

        One whose file was never good has no policy.
        """
        return tuple(
            ListedDomain(held.good or Domain(name=name, policy=""), held.reading.fault)
            for name, held in sorted(self._held.items())
            if held.is_for(principal)
        )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except Exception:  # the root of this task: one bad turn must not end the reading
                log.exception("domains were not read")

    def _scan(self, before: Mapping[str, _Held]) -> dict[str, _Held]:
        found: dict[str, _Held] = {}
        for path in sorted(self._folder.iterdir()):
            if path.suffix != ".toml" or path.name.startswith("."):
                continue
            last = next((held for held in before.values() if held.reading.path == path), None)
            if last is not None and all(mark_of(file) == mark for file, mark in last.reading.marks.items()):
                found[last.reading.name] = last
                continue
            reading = self._reader.read(path)
            found[reading.name] = _Held(reading, reading.domain or (last.good if last else None))
        return found

    def _tell(self, reading: Reading) -> None:
        if reading.fault:
            log.warning("domain at fault", extra={"domain": reading.name, "fault": reading.fault})
        else:
            log.info("domain read", extra={"domain": reading.name})
        self._metrics.domain_loads.labels("faulty" if reading.fault else "good").inc()
