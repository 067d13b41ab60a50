"""What each adapter's name stands for, and how that changes without a call ever seeing half of it.

All versions of a new state are checked and loaded before any takes over, and
the change itself waits for nothing: a call finds the versions before or those
after. All methods belong on the event loop.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from services.generator.domain import SHARED_TENANT, Adapter
from services.generator.registry.entries import Entry, Shown, show
from services.generator.registry.holdings import Held, Holdings
from services.generator.registry.naming import not_found, parse
from services.generator.registry.store import Key, Store, Stored
from tandem.adapters import AdapterRefused, Refusal
from tandem.errors import FailedPrecondition, Overloaded, PermissionDenied, TandemError, TooLarge


class Check(Protocol):
    """Is what decides whether a version may be loaded."""

    def __call__(self, folder: Path, /, *, held: Collection[Adapter] = ()) -> Adapter:
        """Returns the adapter in <root>/<tenant>/<name>/versions/<version>, of those held if it is one of them.

        Raises AdapterRefused unless it may be loaded.
        """
        ...


@dataclass(frozen=True)
class Replaced:
    """Tells what a name stands for after a change, and its stable version before, which may be the same."""

    adapter: Adapter
    before: Adapter | None
    shown: Shown
    refusals: Mapping[str, AdapterRefused]
    """Why versions that the name should stand for were left out."""

    @property
    def previous(self) -> str:
        """Returns the stable version before, empty where there was none."""
        return self.before.version if self.before is not None else ""


@dataclass
class _Taken:
    """Collects the holds of a state that is being prepared, and why versions of it were left out."""

    held: dict[str, Held]
    refusals: dict[str, AdapterRefused]


class Names:
    """Maps names to versions in memory. Of the methods that change them one runs at a time."""

    def __init__(self, holdings: Holdings, *, store: Store, check: Check) -> None:
        self._holdings = holdings
        self._store = store
        self._check = check
        self._entries: dict[Key, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, text: str, *, tenant: str, lot: float) -> tuple[Held, str]:
        """Returns the version that a call with this lot gets, and the way to it; raises NotFound."""
        reference = parse(text)
        entry = self._entries.get((tenant, reference.name)) or self._entries.get((SHARED_TENANT, reference.name))
        held, way = entry.find(reference.selector, lot) if entry is not None else (None, "")
        if held is None:
            raise not_found(text)
        return held, way

    def visible(self, tenant: str) -> list[Shown]:
        """Returns what the tenant may use, by name; its own adapter hides a shared one of the same name."""
        keys = {name: (owner, name) for owner, name in self._entries if owner == SHARED_TENANT}
        keys |= {name: (owner, name) for owner, name in self._entries if owner == tenant}
        return [self.show(keys[name]) for name in sorted(keys)]

    def show(self, key: Key) -> Shown:
        """Returns the description of a name that stands for something."""
        return show(self._entries[key], self._holdings.of(*key))

    def all(self) -> list[Key]:
        """Returns the names that stand for something."""
        return list(self._entries)

    def num_others(self, tenant: str) -> int:
        """Returns how many versions of the tenant are in memory beside those of its aliases."""
        return sum(len(entry.others) for key, entry in self._entries.items() if key[0] == tenant)

    def get(self, key: Key) -> Entry | None:
        """Returns what a name stands for."""
        return self._entries.get(key)

    async def take(
        self,
        key: Key,
        stored: Stored,
        *,
        wanted: Collection[str] = (),
        as_held: bool = False,
        commit: Callable[[], Stored] | None = None,
    ) -> Replaced:
        """Lets the name stand for what is stored, once all of it is in memory and `commit` has run in the thread.

        The versions wanted are loaded beside the aliases'. They and the
        stable one must pass the checks; a candidate that fails is left out.
        With `as_held` what the name stands for already is not checked again.
        Raises AdapterRefused and what Holdings.bring and commit raise; then
        everything is as it was.
        """
        old, aliases = self._entries.get(key), stored.aliases
        named = [aliases.stable, *([aliases.candidate] if aliases.candidate else [])]
        taken = _Taken({}, {})
        try:
            # Before the first wait: what is taken away meanwhile may be gone from memory.
            others = {*old.others} if old is not None else set()
            self._keep(old, taken, versions={*named, *others} if as_held else others - {*named, *wanted})
            await self._prepare(key, old, [*named, *wanted], taken, needed={aliases.stable, *wanted})
            if commit is not None:
                stored = await self._holdings.work(commit)
        except BaseException:
            self._release(taken.held.values())
            raise
        before = self._entries.get(key)  # which may have lost versions meanwhile, or be gone
        self._entries[key] = self._made(stored, taken, before, wanted=wanted)
        if before is not None:
            self._release(before.holds())
        adapter = self._entries[key].stable.adapter
        # Nothing has waited since: whoever called sees just this state.
        return Replaced(adapter, before.stable.adapter if before else None, self.show(key), taken.refusals)

    def _keep(self, old: Entry | None, taken: _Taken, *, versions: Collection[str]) -> None:
        """Takes a hold on those of the versions that the name stands for already."""
        for held in old.holds() if old is not None else ():
            version = held.adapter.version
            if version in versions and version not in taken.held:
                taken.held[version] = self._holdings.hold(held)

    def _made(self, stored: Stored, taken: _Taken, before: Entry | None, *, wanted: Collection[str]) -> Entry:
        """Returns the new state; what has been taken and is not part of it is released."""
        aliases, held = stored.aliases, dict(taken.held)
        stable = held.pop(aliases.stable)
        candidate = held.pop(aliases.candidate, None) if aliases.candidate else None
        if aliases.candidate == aliases.stable:
            candidate = self._holdings.hold(stable)
        loaded = before.others if before is not None else {}
        others = {version: one for version, one in held.items() if version in wanted or version in loaded}
        self._release(one for version, one in held.items() if version not in others)
        return Entry(stored=stored, stable=stable, candidate=candidate, others=others, refusals=taken.refusals)

    def drop(self, key: Key) -> Adapter:
        """Takes the name from new calls and returns its stable version."""
        entry = self._entries.pop(key)
        self._release(entry.holds())
        return entry.stable.adapter

    def drop_version(self, key: Key, version: str) -> Adapter:
        """Takes one version from new calls; raises NotFound, and FailedPrecondition where an alias stands for it."""
        entry = self._entries[key]
        held = entry.others.get(version)
        if held is None:
            if version in (entry.stored.aliases.stable, entry.stored.aliases.candidate):
                raise FailedPrecondition(
                    "an alias stands for the version: promote another, roll back, or unload the adapter",
                    reason="ADAPTER_IN_USE",
                    metadata={"adapter": f"{key[1]}@{version}"},
                )
            raise not_found(f"{key[1]}@{version}")
        left = {other: kept for other, kept in entry.others.items() if other != version}
        self._entries[key] = replace(entry, others=left)
        self._release([held])
        return held.adapter

    def drop_distrusted(self, trusted: Callable[[Adapter], bool]) -> list[Adapter]:
        """Takes from new calls what is not trusted, and returns it; a name whose stable version is not goes whole."""
        gone: list[Adapter] = []
        for key, entry in list(self._entries.items()):
            bad = {held.adapter.version: held for held in entry.holds() if not trusted(held.adapter)}
            gone += [held.adapter for held in bad.values()]
            if entry.stable.adapter.version in bad:
                self.drop(key)
            elif bad:
                refusals = {version: _distrusted(held.adapter) for version, held in bad.items()}
                others = {version: held for version, held in entry.others.items() if version not in bad}
                candidate = entry.candidate
                if candidate is not None and candidate.adapter.version in bad:
                    candidate = None
                left = replace(entry, candidate=candidate, others=others, refusals={**entry.refusals, **refusals})
                self._entries[key] = left
                self._release(bad.values())
        return gone

    def note(self, key: Key, refusal: AdapterRefused, *, version: str) -> None:
        """Remembers for those who look why a newer version does not serve."""
        if (entry := self._entries.get(key)) is not None:
            versions = tuple(dict.fromkeys([*entry.stored.versions, version]))
            stored = replace(entry.stored, versions=versions)
            self._entries[key] = replace(entry, stored=stored, refusals={**entry.refusals, version: refusal})

    async def _prepare(
        self, key: Key, old: Entry | None, order: list[str], taken: _Taken, *, needed: Collection[str]
    ) -> None:
        """Brings the versions into memory that are not taken yet, in order."""
        stays = {*order, *taken.held}
        holds = list(old.holds()) if old is not None else []
        leaving = sum(1 for held in holds if held.num_pins == 0 and held.adapter.version not in stays)
        for version in order:
            if version in taken.held or version in taken.refusals:
                continue
            try:
                taken.held[version] = await self._bring(key, version, leaving)
            except AdapterRefused as error:
                if version in needed:
                    message = f"version {version}: {error.message}"
                    raise AdapterRefused(error.code, message, detail=error.detail) from (error.__cause__ or error)
                taken.refusals[version] = error
            except (TooLarge, Overloaded) as error:
                if version in needed:
                    raise
                taken.refusals[version] = AdapterRefused(Refusal.NO_ROOM, error.message)

    async def _bring(self, key: Key, version: str, leaving: int) -> Held:
        """Checks a version and loads its weights."""
        place = await self._holdings.work(partial(self._store.place, key, version))
        if place is None:
            raise AdapterRefused(Refusal.TRUNCATED, "there is no such version in the adapter folder")
        known = [held.adapter for held in self._holdings.of(*key)]
        try:
            adapter = await self._holdings.work(partial(self._check, place, held=known))
            return await self._holdings.bring(adapter, leaving=leaving)
        except (AdapterRefused, OSError, TandemError):
            raise
        except ValueError as error:  # what only shows when the weights are read
            raise AdapterRefused(Refusal.UNSUPPORTED, str(error)) from error
        except Exception as error:  # one adapter's fault must not become another's
            kind = type(error).__name__
            message = f"it could not be loaded ({kind}); the generator's log says why"
            raise AdapterRefused(Refusal.LOAD_FAILED, message, detail=str(error)) from error

    def _release(self, holds: Iterable[Held]) -> None:
        for held in holds:
            self._holdings.release(held)


def _distrusted(adapter: Adapter) -> AdapterRefused:
    message = f"the key {adapter.signer_key_id} that signed it is not trusted any more"
    return AdapterRefused(Refusal.KEY_UNKNOWN, message)


def own(tenant: str, name: str) -> Key:
    """Returns the key of a tenant's own adapter; raises PermissionDenied for the shared ones."""
    if tenant == SHARED_TENANT:
        raise PermissionDenied("shared adapters change with the adapter folder only")
    return (tenant, name)
