"""Opens the store on a real Milvus, and lets its writes break off, for tests."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.metrics import RetrieverMetrics
from tandem.telemetry import Telemetry
from tests.fakes.retriever import DIMENSION


@dataclass(frozen=True)
class Subject:
    """Is a kind of Milvus: the settings that lead to it, and a store that is open on it."""

    name: str
    settings: dict[str, object]
    store: MilvusStore


@asynccontextmanager
async def opened(settings: dict[str, object]) -> AsyncIterator[MilvusStore]:
    """Opens a store, as one replica does."""
    config = RetrieverConfig(**{"dimension": DIMENSION, **settings})
    store = MilvusStore(config, metrics=RetrieverMetrics(Telemetry("retriever").registry))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


class Broken(Exception):
    """Is what a call meets that breaks off."""


class Breaking:
    """Is a client on which only so many changes work."""

    def __init__(self, client: object, allowed: int) -> None:
        self._client, self._allowed = client, allowed

    def __getattr__(self, name: str) -> object:
        plain = getattr(self._client, name)
        if name not in ("insert", "upsert", "delete"):
            return plain

        def counted(*args: object, **kwargs: object) -> object:
            self._allowed -= 1
            if self._allowed < 0:
                raise Broken
            return plain(*args, **kwargs)

        return counted


@contextmanager
def breaking(store: MilvusStore, allowed: int) -> Iterator[None]:
    """Lets the store's next call break off after so many changes."""
    plain = store.connection.call

    async def call(do: Callable[[object, float], object]) -> object:
        return await plain(lambda client, timeout: do(Breaking(client, allowed), timeout))

    store.connection.call = call  # type: ignore[assignment, method-assign]
    try:
        yield
    except Broken:
        pass
    finally:
        store.connection.call = plain  # type: ignore[method-assign]
