"""Follows the adapter folder and the trust files: what is new there serves, what is gone or distrusted leaves.

Nothing that failed counts as settled, since the next look may find it mended:
files that were still being copied, a trust file half written. It is tried
again, less and less often while nothing changes.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from services.generator.domain import Adapter
from services.generator.metrics import GeneratorMetrics
from services.generator.registry.changes import Changes
from services.generator.registry.holdings import Holdings
from services.generator.registry.names import Names
from services.generator.registry.reports import Reports
from services.generator.registry.store import Key, Stamp, Store
from tandem.adapters import AdapterRefused, Trust
from tandem.errors import ConfigError, Overloaded, TandemError, TooLarge

log = logging.getLogger(__name__)

_MAX_PAUSE = 8
_NOT_SETTLED: Stamp = (0, 0, 0)


@dataclass
class _Pause:
    """Says how many looks pass before a state of the folder that failed is tried again."""

    stamp: Stamp
    length: int = 1
    left: int = 0


class Following:
    """Looks at the folder and lets the names follow. All methods belong on the event loop."""

    def __init__(
        self,
        *,
        names: Names,
        store: Store,
        holdings: Holdings,
        changes: Changes,
        reports: Reports,
        metrics: GeneratorMetrics,
        trust: Callable[[], Trust] | None,
        put_out: Collection[Key],
    ) -> None:
        self._names = names
        self._store = store
        self._holdings = holdings
        self._changes = changes
        self._reports = reports
        self._metrics = metrics
        self._read_trust = trust
        self._put_out = put_out
        self._trust: Trust | None = None
        self._keys_fault = ""
        self._pauses: dict[Key, _Pause] = {}
        self._missing: set[Key] = set()
        """What serves and was not in the folder at the last look."""

    async def begin(self) -> None:
        """Loads all stable versions, then the candidates for which there is room.

        Raises ConfigError where the folder is missing, and TooLarge or Overloaded for too many stable versions.
        """
        found = await self._holdings.work(self._store.survey)
        for key, stamp in found.items():
            async with self._changes.turn():
                await self._try(key, stamp, alone=True)
        await self._follow({key: stamp for key, stamp in found.items() if self._names.get(key) is not None})

    async def look(self) -> None:
        """Follows what has changed since the last look; what fails is logged, and what served before goes on."""
        found = await self._holdings.work(self._store.survey)
        await self._withdraw_distrusted()
        self._withdraw_deleted(found)
        await self._follow(found)

    async def _follow(self, found: Mapping[Key, Stamp]) -> None:
        for key, stamp in found.items():
            if self._is_settled(key, stamp) or self._pauses_still(key, stamp):
                continue
            async with self._changes.turn():
                if key not in self._put_out:
                    await self._try(key, stamp)

    async def _try(self, key: Key, stamp: Stamp, *, alone: bool = False) -> None:
        """Lets the name follow; whatever is wrong with this adapter is told, and the others go on."""
        try:
            await self._take(key, alone=alone)
        except (AdapterRefused, OSError, TandemError) as error:
            if alone and isinstance(error, TooLarge | Overloaded):
                raise
            self._reports.fault(key, error)
            self._pause(key, stamp)
        except Exception:
            log.exception("an adapter could not be followed", extra={"adapter": "/".join(key)})
            self._pause(key, stamp)
        else:
            entry = self._names.get(key)
            if entry is not None and entry.refusals:
                self._pause(key, stamp)
            else:
                self._pauses.pop(key, None)

    def _is_settled(self, key: Key, stamp: Stamp) -> bool:
        entry = self._names.get(key)
        return key in self._put_out or (entry is not None and entry.stored.stamp == stamp and not entry.refusals)

    async def _take(self, key: Key, *, alone: bool = False) -> None:
        """Lets the name stand for what is in the folder; `alone` for its stable version only, for the time being."""
        stored = await self._holdings.work(lambda: self._store.read(key))
        if stored is None:  # it went since the survey
            return
        old = self._names.get(key)
        wanted = stored
        if alone and stored.aliases.candidate is not None:
            wanted = replace(
                stored, aliases=replace(stored.aliases, candidate=None, canary_share=0.0), stamp=_NOT_SETTLED
            )
        try:
            replaced = await self._names.take(key, wanted)
        except AdapterRefused as error:
            self._names.note(key, error, version=stored.aliases.stable)
            raise
        if key in self._put_out:  # meanwhile
            self._names.drop(key)
            return
        self._reports.left_out(replaced)
        entry = self._names.get(key)
        before, after = ((one.stored.stamp, one.versions) if one is not None else None for one in (old, entry))
        if before == after:
            return
        if wanted is stored:
            self._reports.serves("loaded", replaced)
        if not alone and (old is None or old.stored.stamp != _NOT_SETTLED):
            self._metrics.adapter_loads.labels("loaded").inc()

    def _pause(self, key: Key, stamp: Stamp) -> None:
        last = self._pauses.get(key)
        length = min(2 * last.length, _MAX_PAUSE) if last is not None and last.stamp == stamp else 1
        self._pauses[key] = _Pause(stamp, length, length - 1)

    def _pauses_still(self, key: Key, stamp: Stamp) -> bool:
        pause = self._pauses.get(key)
        if pause is None or pause.stamp != stamp or not pause.left:
            return False
        pause.left -= 1
        return True

    async def _withdraw_distrusted(self) -> None:
        """Takes from new calls what no key that is trusted now has signed."""
        if self._read_trust is None:
            return
        try:
            trust = await self._holdings.work(self._read_trust)
        except (ConfigError, OSError) as error:  # half written, perhaps: what serves goes on
            if self._keys_fault != str(error):
                self._keys_fault = str(error)
                log.warning("the keys of adapters cannot be read: %s", error)
            return
        self._keys_fault = ""
        if trust != self._trust:
            self._trust = trust
            self._pauses.clear()

        def trusted(adapter: Adapter) -> bool:
            key = trust.keys.get(adapter.signer_key_id)
            return key is not None and key.may_sign_for(adapter.tenant)

        for adapter in self._names.drop_distrusted(trusted):
            self._reports.withdrawn(adapter, "the key that signed it is not trusted any more")

    def _withdraw_deleted(self, found: Mapping[Key, Stamp]) -> None:
        """Takes from new calls what two looks in a row have not found in the folder."""
        missing = {key for key in self._names.all() if key not in found}
        for key in missing & self._missing:
            self._reports.withdrawn(self._names.drop(key), "it is not in the adapter folder any more")
            self._reports.forget(key)
        self._missing = missing
        for key in self._pauses.keys() - found.keys():
            del self._pauses[key]
            self._reports.forget(key)
