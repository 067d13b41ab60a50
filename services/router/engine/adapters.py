"""Which adapters a tenant has, as the generator told a moment ago."""

import time
from collections import OrderedDict
from collections.abc import Callable

from services.router.domain import Generator

_MAX_TENANTS = 1024


class AdapterDirectory:
    """Asks the generator on behalf of the caller, and believes the answer for a short while, tenant by tenant."""

    def __init__(self, generator: Generator, *, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._generator = generator
        self._keep_s = keep_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    async def available(self, tenant: str, *, timeout_s: float) -> frozenset[str]:
        """Returns the names of the adapters that the caller, of this tenant, may use; raises TandemError."""
        known = self._known.get(tenant)
        if known is not None and self._clock() < known[0]:
            return known[1]
        names = await self._generator.adapters(timeout_s=timeout_s)
        self._known[tenant] = (self._clock() + self._keep_s, names)
        self._known.move_to_end(tenant)
        while len(self._known) > _MAX_TENANTS:
            self._known.popitem(last=False)
        return names

    async def has(self, name: str, tenant: str, *, timeout_s: float) -> bool:
        """Tells whether the caller may use an adapter, also by an alias or a version of it; raises TandemError."""
        return name.partition("@")[0] in await self.available(tenant, timeout_s=timeout_s)

    def forget(self, tenant: str) -> None:
        """Drops what is known of a tenant: it has turned out to be wrong."""
        self._known.pop(tenant, None)
