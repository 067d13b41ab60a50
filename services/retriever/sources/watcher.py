"""Keeps the documents of one live source as the source shows them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from services.retriever.domain import DocumentKey, Store
from services.retriever.domain.uploads import Intake, State, Timings, Upload
from services.retriever.metrics import RetrieverMetrics
from services.retriever.sources.config import SourceConfig
from services.retriever.sources.look import MARK, Item, Source, SourceFault
from tandem.errors import TandemError
from tandem.security import Principal

log = logging.getLogger(__name__)

_PAGE = 500
_MAX_PAUSE_S = 300.0


class Watcher:
    """Looks at a source again and again. What it knows of the source is in memory; the documents are in the store.

    After a start it takes everything in once more, which the content's hash makes cheap.
    """

    def __init__(
        self, config: SourceConfig, source: Source, *, store: Store, intake: Intake, metrics: RetrieverMetrics
    ) -> None:
        self._config = config
        self._source = source
        self._store = store
        self._intake = intake
        groups = frozenset(config.groups) | frozenset(config.former_groups)
        self._principal = Principal(f"source:{config.name}", config.tenant, groups, frozenset({"editor"}))
        # The stamp of each document that was dealt with; None for one that an earlier process took in.
        self._held: dict[str, object] | None = None
        self._since = time.time()
        self._success = self._since
        self._fault = ""
        self._documents = metrics.documents
        self._failures = metrics.source_failures.labels(source=config.name)
        self._shown = metrics.source_documents.labels(source=config.name)
        self._last_success = metrics.source_last_success.labels(source=config.name)
        metrics.source_lag.labels(source=config.name).set_function(lambda: max(0.0, time.time() - self._success))

    async def run(self) -> None:
        """Looks for ever; never raises."""
        failures = 0
        every = self._config.every_seconds
        try:
            while True:
                failures = 0 if await self.look() else failures + 1
                await asyncio.sleep(min(every * 2.0 ** min(failures, 16), max(every, _MAX_PAUSE_S)))
        finally:
            await self._source.close()

    async def look(self) -> bool:
        """Looks once, and returns whether all went well."""
        begun = time.time()
        try:
            fault = await self._look()
        except (SourceFault, TandemError) as error:
            self._fail(str(error))
            return False
        except Exception as error:  # noqa: BLE001 -- a task root: no fault of one source ends the watch over it
            self._fail(type(error).__name__, error)
            return False
        self._since = self._success = begun
        self._last_success.set(begun)
        if fault:
            self._fail(fault)
        elif self._fault:
            log.info("live source works again", extra={"source": self._config.name})
            self._fault = ""
        return True

    async def _look(self) -> str:
        """Returns what of the source could not be read, if anything."""
        if self._held is None:
            self._held = await self._known()
        look = await self._source.look()
        if look is None:
            return ""
        items = {item.document_id: item for item in look.items}
        self._shown.set(len(items))
        await self._take_in(list(items.values()), self._held)
        if look.faults:
            return f"{look.faults[0]} ({len(look.faults)} faults in all; nothing is deleted meanwhile)"
        if self._config.delete_missing:
            await self._delete_missing(items, self._held)
        self._source.accept()
        return ""

    async def _known(self) -> dict[str, object]:
        """Returns the documents in the store that came from this source."""
        known: dict[str, object] = {}
        prefix = after = f"{self._config.name}."
        while page := await self._store.page(self._principal, after=after, limit=_PAGE):
            own = [row for row in page if row.key.document_id.startswith(prefix)]
            known |= {row.key.document_id: None for row in own if row.header.attributes.get(MARK) == self._config.name}
            after = page[-1].key.document_id
            if len(own) < len(page):
                break
        return known

    async def _take_in(self, items: Sequence[Item], held: dict[str, object]) -> None:
        changed = [item for item in items if held.get(item.document_id) != item.stamp]
        under_way: deque[Item] = deque()

        async def uploads() -> AsyncGenerator[Upload, None]:
            for item in changed:
                if (upload := await item.load()) is not None:
                    under_way.append(item)
                    yield replace(upload, appeared=min(time.time(), max(item.changed, self._since)))

        async with aclosing(uploads()) as arriving:
            taken_in = self._intake.run(self._principal, arriving, Timings(), origin=self._source.origin)
            async with aclosing(taken_in) as results:
                async for result in results:
                    item = under_way.popleft()
                    held[item.document_id] = item.stamp
                    if result.state is State.REJECTED and result.error is not None:
                        self._rejected(item, result.error)

    def _rejected(self, item: Item, error: TandemError) -> None:
        log.warning(
            "a live source's document is rejected",
            extra={"source": self._config.name, "document": item.document_id, "reason": error.reason},
        )

    async def _delete_missing(self, items: Mapping[str, Item], held: dict[str, object]) -> None:
        missing = sorted(held.keys() - items.keys())
        if missing and not items:
            raise SourceFault(
                f"it shows no document at all, and {len(missing)} are held: nothing is deleted, for a folder that is "
                "not mounted looks the same. If it is right, delete them with `tandem delete`, or have it show one"
            )
        for start in range(0, len(missing), _PAGE):
            ids = missing[start : start + _PAGE]
            live = await self._store.live([DocumentKey(self._config.tenant, document_id) for document_id in ids])
            for row in live.values():
                if row.open_to(self._principal) and row.header.attributes.get(MARK) == self._config.name:
                    await self._store.remove(row)
                    self._documents.labels(state="deleted").inc()
            for document_id in ids:
                del held[document_id]

    def _fail(self, fault: str, bug: Exception | None = None) -> None:
        """Counts a failure, and tells of it unless it is the one that was told."""
        self._failures.inc()
        if fault != self._fault:
            self._fault = fault
            log.warning("live source fails", extra={"source": self._config.name, "reason": fault}, exc_info=bug)
