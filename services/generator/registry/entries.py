"""What one adapter's name stands for in memory, and how it is shown."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from services.generator.domain import SHARED_TENANT, Adapter
from services.generator.registry.holdings import Held
from services.generator.registry.naming import CANDIDATE, STABLE
from services.generator.registry.store import Stored
from tandem.adapters import AdapterRefused

_MAX_SHOWN = 16
_MAX_REFUSAL = 200


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Holds the versions that calls can have by one name; each of them counts one hold."""

    stored: Stored
    stable: Held
    candidate: Held | None = None
    others: dict[str, Held] = field(default_factory=dict)
    """Versions that were loaded by their hash, beside those of the aliases."""
    refusals: dict[str, AdapterRefused] = field(default_factory=dict)
    """Why versions of this state of the folder were left out."""

    def holds(self) -> Iterator[Held]:
        """Yields every hold."""
        yield self.stable
        if self.candidate is not None:
            yield self.candidate
        yield from self.others.values()

    @property
    def versions(self) -> tuple[str, ...]:
        """Returns the keys of all that is held."""
        return tuple(held.adapter.key for held in self.holds())

    def find(self, selector: str, lot: float) -> tuple[Held | None, str]:
        """Returns the version that a call gets, None where there is none, and the way to it: an alias or "version".

        `lot` is drawn from [0, 1); a call without a selector gets the
        candidate if it is less than the canary's share.
        """
        if selector == CANDIDATE:
            return self.candidate, CANDIDATE
        if selector == "" and self.candidate is not None and lot < self.stored.aliases.canary_share:
            return self.candidate, CANDIDATE
        if selector in ("", STABLE):
            return self.stable, STABLE
        return next((held for held in self.holds() if held.adapter.version == selector), None), "version"


class VersionState(Enum):
    """Tells where a version's weights are."""

    LOADED = "loaded"
    RETIRED = "retired"
    STORED = "stored"


@dataclass(frozen=True, kw_only=True)
class ShownVersion:
    """Describes one version; sha256 is empty where its weights are not in memory."""

    version: str
    aliases: tuple[str, ...]
    state: VersionState
    sha256: str = ""
    num_sequences: int = 0
    refusal: str = ""
    """The code of the refusal, a colon and its sentence; empty where it was not refused."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Describes an adapter as its tenant sees it; `adapter` is its stable version."""

    adapter: Adapter
    num_sequences: int
    candidate: str
    canary_share: float
    previous: str
    versions: tuple[ShownVersion, ...]

    @property
    def shared(self) -> bool:
        """Tells whether it is every tenant's."""
        return self.adapter.tenant == SHARED_TENANT


def show(entry: Entry, in_memory: list[Held]) -> Shown:
    """Returns the description of an adapter; `in_memory` are its versions there, retired ones included."""
    aliases = entry.stored.aliases
    loaded = [held.adapter.version for held in entry.holds()]
    retired = [held.adapter.version for held in in_memory if held.num_holds == 0]
    named = [aliases.stable, *([aliases.candidate] if aliases.candidate else [])]
    order = dict.fromkeys([*named, *loaded, *retired, *reversed(aliases.history), *entry.stored.versions])
    return Shown(
        adapter=entry.stable.adapter,
        num_sequences=entry.stable.num_pins,
        candidate=aliases.candidate or "",
        canary_share=float(aliases.canary_share),
        previous=aliases.history[-1] if aliases.history else "",
        versions=tuple(_show_version(entry, in_memory, version) for version in list(order)[:_MAX_SHOWN]),
    )


def _show_version(entry: Entry, in_memory: list[Held], version: str) -> ShownVersion:
    held = [held for held in in_memory if held.adapter.version == version]
    loaded = any(one.num_holds for one in held)
    aliases, refused = entry.stored.aliases, entry.refusals.get(version)
    return ShownVersion(
        version=version,
        aliases=tuple(alias for alias in (STABLE, CANDIDATE) if getattr(aliases, alias) == version),
        state=VersionState.LOADED if loaded else VersionState.RETIRED if held else VersionState.STORED,
        sha256=held[0].adapter.sha256 if held else "",
        num_sequences=sum(one.num_pins for one in held),
        refusal=f"{refused.code}: {refused.message}"[:_MAX_REFUSAL] if refused is not None else "",
    )
