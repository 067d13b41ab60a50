"""What each adapter's name stands for, and how that changes without a call ever seeing half of it.

All versions of a new state are checked and loaded before any takes over, and
the change itself waits for nothing: a call finds the versions before or those
after. All methods belong on the event loop.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from services.generator.domain import SHARED_TENANT, Adapter
from services.generator.registry.entries import Entry, Shown, show
from services.generator.registry.holdings import Held, Holdings
from services.generator.registry.naming import not_found, parse
from services.generator.registry.store import Key, Store, Stored
from tandem.adapters import AdapterRefused, Refusal
from tandem.errors import FailedPrecondition, PermissionDenied

Check = Callable[[Path], Adapter]
"""Returns the adapter in <root>/<tenant>/<name>/versions/<version>; raises AdapterRefused unless it may be loaded."""


@dataclass(frozen=True)
class Replaced:
    """Tells what a name stands for after a change, and its stable version before, which may be the same."""

    adapter: Adapter
    before: Adapter | None
    shown: Shown

    @property
    def previous(self) -> str:
        """Returns the stable version before, empty where there was none."""
        return self.before.version if self.before is not None else ""


@dataclass
class _Taken:
    """Collects the holds of a state that is being prepared, and why versions of it were left out."""

    held: dict[str, Held]
    refusals: dict[str, str]


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

    def get(self, key: Key) -> Entry | None:
        """Returns what a name stands for."""
        return self._entries.get(key)

    async def take(
        self,
        key: Key,
        stored: Stored,
        *,
        wanted: Collection[str] = (),
        commit: Callable[[], Stored] | None = None,
    ) -> Replaced:
        """Lets the name stand for what is stored, once all of it is in memory and `commit` has run in the thread.

        The versions wanted are loaded beside the aliases'. They and the
        stable one must pass the checks; a candidate that fails is left out.
        Raises AdapterRefused and what Holdings.bring and commit raise; then
        everything is as it was.
        """
        old = self._entries.get(key)
        aliases = stored.aliases
        named = [aliases.stable, *([aliases.candidate] if aliases.candidate else [])]
        others = dict.fromkeys([*wanted, *(old.others if old is not None else ())])
        order = list(dict.fromkeys([*named, *others]))
        taken = _Taken({}, {})
        try:
            await self._prepare(key, old, order, taken, needed={aliases.stable, *wanted})
            if commit is not None:
                stored = await self._holdings.work(commit)
        except BaseException:
            self._release(taken.held.values())
            raise
        held = taken.held
        old = self._entries.get(key)  # which may have been dropped meanwhile
        self._entries[key] = Entry(
            stored=stored,
            stable=held[aliases.stable],
            candidate=held.get(aliases.candidate) if aliases.candidate else None,
            others={version: held[version] for version in order if version in held and version not in named},
            refusals=taken.refusals,
        )
        if old is not None:
            self._release(old.holds())
        # Nothing has waited since: whoever called sees just this state.
        return Replaced(held[aliases.stable].adapter, old.stable.adapter if old is not None else None, self.show(key))

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

    def note(self, key: Key, refusal: str, *, version: str) -> None:
        """Remembers for those who look why a newer version does not serve."""
        if (entry := self._entries.get(key)) is not None:
            versions = tuple(dict.fromkeys([*entry.stored.versions, version]))
            stored = replace(entry.stored, versions=versions)
            self._entries[key] = replace(entry, stored=stored, refusals={**entry.refusals, version: refusal})

    async def _prepare(
        self, key: Key, old: Entry | None, order: list[str], taken: _Taken, *, needed: Collection[str]
    ) -> None:
        """Brings the versions into memory, in order."""
        holds = list(old.holds()) if old is not None else []
        leaving = sum(1 for held in holds if held.num_pins == 0 and held.adapter.version not in order)
        for version in order:
            kept = old.others.get(version) if old is not None else None
            if kept is not None and version not in needed:
                taken.held[version] = self._holdings.hold(kept)
                continue
            try:
                taken.held[version] = await self._bring(key, version, leaving)
            except AdapterRefused as error:
                if version in needed:
                    raise AdapterRefused(error.code, f"version {version}: {error.message}") from error
                taken.refusals[version] = f"{error.code}: {error.message}"

    async def _bring(self, key: Key, version: str, leaving: int) -> Held:
        """Checks a version and loads its weights."""
        place = await self._holdings.work(partial(self._store.place, key, version))
        if place is None:
            raise AdapterRefused(Refusal.TRUNCATED, "there is no such version in the adapter folder")
        adapter = await self._holdings.work(partial(self._check, place))
        try:
            return await self._holdings.bring(adapter, leaving=leaving)
        except ValueError as error:  # what only shows when the weights are read
            raise AdapterRefused(Refusal.UNSUPPORTED, str(error)) from error

    def _release(self, holds: Iterable[Held]) -> None:
        for held in holds:
            self._holdings.release(held)


def own(tenant: str, name: str) -> Key:
    """Returns the key of a tenant's own adapter; raises PermissionDenied for the shared ones."""
    if tenant == SHARED_TENANT:
        raise PermissionDenied("shared adapters change with the adapter folder only")
    return (tenant, name)
