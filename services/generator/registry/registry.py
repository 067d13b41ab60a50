"""Shows each caller its adapters, says which version of one a call gets, and changes that while calls go on.

Changes come from operators, and from the adapter folder itself, which is
looked at again and again so that every process that serves it follows. They
are made one after another; checking and loading happen in one thread, beside
the running model, and a sequence ends on what it started on (holdings.py).
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from services.generator.domain import SHARED_TENANT, Adapter, Adapters, Pin
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import aliasing
from services.generator.registry.changes import Changes
from services.generator.registry.entries import Shown
from services.generator.registry.following import Following
from services.generator.registry.holdings import Holdings
from services.generator.registry.names import Check, Names, Replaced, own
from services.generator.registry.naming import not_found, parse_loadable, parse_name, parse_version
from services.generator.registry.reports import Reports, full
from services.generator.registry.store import Key, Store, Stored
from tandem.adapters import AdapterRefused, Aliases, Trust
from tandem.errors import ConfigError, NotFound, Overloaded, TooLarge

log = logging.getLogger(__name__)

_MAX_OTHERS = 8
"""Versions of one tenant in memory beside those of its aliases: the room is for all tenants."""


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
        check: Check,
        folder: Path | None,
        max_adapters: int,
        metrics: GeneratorMetrics,
        trust: Callable[[], Trust] | None = None,
        refresh_s: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.draw = draw
        """Draws the lot of one call, from [0, 1): all that the call names is chosen by it."""
        self._store = Store(folder)
        self._max_adapters = max_adapters
        self._metrics = metrics
        self._refresh_s = refresh_s
        self._holdings = Holdings(adapters, max_versions=max_adapters, metrics=metrics)
        self._names = Names(self._holdings, store=self._store, check=check)
        self._put_out: set[Key] = set()
        self._reports = Reports(metrics)
        self._changes = Changes()
        self._following = Following(
            names=self._names,
            store=self._store,
            holdings=self._holdings,
            changes=self._changes,
            reports=self._reports,
            metrics=metrics,
            trust=trust,
            put_out=self._put_out,
        )

    def __len__(self) -> int:
        return len(self._names)

    async def start(self) -> None:
        """Loads what the aliases in the folder name; what fails a check is logged and left out.

        Raises ConfigError where the folder is missing or names more stable versions than there may be. Candidates
        for which there is no room are left out.
        """
        try:
            await self._following.begin()
        except (TooLarge, Overloaded) as error:
            message = f"the adapter folder names more versions than GENERATOR_MAX_ADAPTERS={self._max_adapters}"
            raise ConfigError(message) from error
        if self._refresh_s and self._store.root is not None:
            self._changes.keep(asyncio.create_task(self._keep_following(), name="follow the adapter folder"))

    async def stop(self) -> None:
        """Ends what is under way, after the load in progress; to be called when no sequence runs any longer."""
        await self._changes.stop()
        await self._holdings.stop()

    def find(self, name: str, *, tenant: str, lot: float = 1.0) -> Adapter:
        """Returns the version that a call with this lot gets by the name; raises NotFound."""
        return self._names.find(name, tenant=tenant, lot=lot)[0].adapter

    def pin(self, name: str, *, tenant: str, lot: float | None = None) -> Pin:
        """Returns a hold on what `find` finds, by a lot that is drawn where none is given; raises NotFound."""
        held, way = self._names.find(name, tenant=tenant, lot=self.draw() if lot is None else lot)
        self._metrics.adapter_calls.labels(way).inc()
        return self._holdings.pin(held)

    def visible(self, tenant: str) -> list[Shown]:
        """Returns what the tenant may use, by name; its own adapter hides a shared one of the same name."""
        return self._names.visible(tenant)

    def num_pins(self, adapter: Adapter) -> int:
        """Returns how many pins hold this version."""
        found = self._holdings.of(adapter.tenant, adapter.name)
        return sum(held.num_pins for held in found if held.adapter.key == adapter.key)

    async def load(self, name: str, *, tenant: str) -> Replaced:
        """Loads what the aliases of the tenant's adapter name now, and the version if the name has one.

        Sequences on an older version finish on it. A change that has begun
        goes on when its caller leaves. Raises NotFound, InvalidInput,
        FailedPrecondition (ADAPTER_REFUSED), Overloaded where older versions
        still hold the room or too many changes wait (TOO_MANY_CHANGES), and
        TooLarge where it would not help to wait.
        """
        reference = parse_loadable(name)
        wanted = (reference.selector,) if reference.selector else ()
        return await self._changes.make(tenant, partial(self._load, own(tenant, reference.name), wanted))

    def unload(self, name: str, *, tenant: str) -> Adapter:
        """Takes the tenant's own adapter, or one version of it, from new calls and returns it.

        It stays out until it is loaded again. Raises NotFound, InvalidInput,
        and FailedPrecondition (ADAPTER_IN_USE) for a version that an alias
        stands for.
        """
        reference = parse_loadable(name)
        key = (tenant, reference.name)
        if tenant == SHARED_TENANT or self._names.get(key) is None:
            raise not_found(name)
        if reference.selector:
            gone = self._names.drop_version(key, reference.selector)
        else:
            self._put_out.add(key)
            gone = self._names.drop(key)
        log.info("adapter unloaded", extra={"adapter": full(gone), "version": gone.version})
        return gone

    async def promote(self, name: str, *, tenant: str, version: str = "") -> Replaced:
        """Makes the candidate, or the version, the stable one, here and in the folder.

        Raises as load does, and FailedPrecondition (NO_CANDIDATE,
        ADAPTER_CHANGED, ADAPTER_FOLDER_READ_ONLY); then nothing has changed.
        """
        key, target = own(tenant, parse_name(name)), parse_version(version)
        change = partial(aliasing.promote, version=target)
        return await self._changes.make(tenant, partial(self._switch, key, change, "promoted", target))

    async def roll_back(self, name: str, *, tenant: str) -> Replaced:
        """Makes what was stable before stable again; raises as promote does, and NO_EARLIER_VERSION."""
        key = own(tenant, parse_name(name))
        return await self._changes.make(tenant, partial(self._switch, key, aliasing.roll_back, "rolled_back"))

    async def set_canary(self, name: str, share: float, *, tenant: str, version: str = "") -> Replaced:
        """Gives the candidate, or the version as the new one, a share of the calls; raises as promote does.

        A share that does not rise asks nothing of a candidate that is in memory: a trial can always be ended.
        """
        key, target = own(tenant, parse_name(name)), parse_version(version)
        change = partial(aliasing.canary, share=share, version=target)
        return await self._changes.make(tenant, partial(self._switch, key, change, "canary", target))

    async def refresh(self) -> None:
        """Follows what has changed in the folder; what fails a check is logged, and what served before goes on."""
        await self._following.look()

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except (OSError, ConfigError) as error:
                log.warning("the adapter folder cannot be read: %s", error)
            except Exception:
                log.exception("the adapter folder could not be followed")

    async def _load(self, key: Key, wanted: tuple[str, ...]) -> Replaced:
        try:
            stored = await self._stored(key, *wanted)
            self._check_others(key, stored.aliases, wanted)
            replaced = await self._names.take(key, stored, wanted=wanted)
        except (AdapterRefused, OSError) as error:
            raise self._reports.refused(key, error) from error
        except NotFound:
            raise
        except Exception:
            self._metrics.adapter_loads.labels("failed").inc()
            raise
        self._put_out.discard(key)
        same = not wanted and replaced.before is not None and replaced.before.key == replaced.adapter.key
        self._metrics.adapter_loads.labels("unchanged" if same else "loaded").inc()
        self._tell("loaded", replaced)
        return replaced

    def _check_others(self, key: Key, aliases: Aliases, wanted: tuple[str, ...]) -> None:
        entry = self._names.get(key)
        there = {aliases.stable, aliases.candidate, *(entry.others if entry is not None else ())}
        if set(wanted) <= there or self._names.num_others(key[0]) < _MAX_OTHERS:
            return
        message = f"{_MAX_OTHERS} versions are in memory beside those of the tenant's aliases; unload one first"
        raise TooLarge(message, reason="TOO_MANY_ADAPTERS")

    async def _switch(self, key: Key, change: Callable[[Aliases], Aliases], kind: str, version: str = "") -> Replaced:
        """Loads what the changed aliases name, writes them, and lets them hold here."""
        try:
            stored = await self._stored(key, *([version] if version else []))
            aliases, before = change(stored.aliases), stored.aliases
            trial = kind == "canary" and aliases.candidate is not None
            rises = trial and (aliases.candidate != before.candidate or aliases.canary_share > before.canary_share)
            replaced = await self._names.take(
                key,
                replace(stored, aliases=aliases),
                wanted=[aliases.candidate] if rises and aliases.candidate else [],
                as_held=trial and not rises,
                commit=partial(self._store.change, key, change, expected=before),
            )
        except (AdapterRefused, OSError) as error:
            raise self._reports.refused(key, error) from error
        self._put_out.discard(key)
        self._metrics.adapter_changes.labels(kind).inc()
        self._tell(kind, replaced)
        return replaced

    def _tell(self, change: str, replaced: Replaced) -> None:
        self._reports.serves(change, replaced)
        self._reports.left_out(replaced)

    async def _stored(self, key: Key, *versions: str) -> Stored:
        """Returns what lies in the folder; raises NotFound where the name or one of the versions is not there."""
        stored = await self._holdings.work(partial(self._store.read, key))
        if stored is None:
            raise NotFound("there is no such adapter to load", metadata={"adapter": key[1]})
        if missing := [version for version in versions if version not in stored.versions]:
            about = {"adapter": f"{key[1]}@{missing[0]}"}
            raise NotFound("there is no such version to load; rejected ones are never loaded", metadata=about)
        return stored
