"""The watch over all live sources: a task for each, so that none waits for another."""

import asyncio
from collections.abc import Sequence

from services.retriever.domain import Store
from services.retriever.domain.uploads import Intake
from services.retriever.metrics import RetrieverMetrics
from services.retriever.sources.config import SourceConfig
from services.retriever.sources.feed import Feed
from services.retriever.sources.folder import Folder
from services.retriever.sources.watcher import Watcher


class Watch:
    """Runs the watchers of the configured sources."""

    def __init__(
        self, sources: Sequence[SourceConfig], *, store: Store, intake: Intake, metrics: RetrieverMetrics
    ) -> None:
        self._sources = sources
        self._store = store
        self._intake = intake
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to look."""
        for config in self._sources:
            source = Folder(config) if config.kind == "folder" else Feed(config)
            watcher = Watcher(config, source, store=self._store, intake=self._intake, metrics=self._metrics)
            self._tasks.append(asyncio.create_task(watcher.run(), name=f"source {config.name}"))

    async def stop(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
