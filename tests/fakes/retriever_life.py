"""One retriever from its start to its end, on a Milvus in memory: store, ingestion, builder, keeper and searches."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.domain import Embedded, EmbeddingModel, Header, SnapshotState
from services.retriever.domain.uploads import State, Timings, Upload
from services.retriever.engine import Defaults, Documents, Searcher
from services.retriever.ingest.pipeline import Ingestion
from services.retriever.ingest.window import Limits
from services.retriever.metrics import RetrieverMetrics
from services.retriever.snapshots import Builder, Keeper
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.retriever import DIMENSION, MODEL, FakeEmbedder, FakeParser
from tests.fakes.retriever_milvus import FakeClient, FakeConnection, FakeMilvus

LIMIT = 60
Content = tuple[str, tuple[str, ...]]  # a text, and the groups that may see it
CONFIG = RetrieverConfig(milvus_uri="unused.db", dimension=DIMENSION, chunk_characters=100)
_UNSETTLED = {SnapshotState.BUILDING, SnapshotState.DROPPED}


class Slow(FakeEmbedder):
    """Serves one model, which is the newest, and lets others go ahead meanwhile; `asked` is set by the first call."""

    turns = 0

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def embed(self, texts: Sequence[str], *, model: EmbeddingModel | None = None) -> Embedded:
        """Returns a vector for each text."""
        self.asked.set()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return await super().embed(texts, model=model)

    async def newest(self) -> EmbeddingModel:
        """Returns the model."""
        return MODEL


class Life:
    """Is the process. What it embeds for searches, for writes and for builds can be slowed down or held apart."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self.client = FakeClient(milvus)
        telemetry = Telemetry("retriever")
        metrics, tracer = RetrieverMetrics(telemetry.registry), telemetry.tracer
        self.embedders = self.searches, self.writes, self.builds = Slow(), Slow(), Slow()
        self.store = MilvusStore(CONFIG, metrics=metrics, connection=FakeConnection(self.client))
        limits = Limits(streams=9, documents=9, bytes=10**6, chunk_characters=CONFIG.chunk_characters)
        self.ingestion = Ingestion(
            store=self.store,
            embedder=self.writes,
            parser=FakeParser(limit=CONFIG.chunk_characters),
            limits=limits,
            metrics=metrics,
            tracer=tracer,
        )
        builder = Builder(store=self.store, models=self.builds, batch_texts=4, metrics=metrics, tracer=tracer)
        self.keeper = Keeper(
            store=self.store, builder=builder, models=self.searches, chunk_characters=LIMIT, analyzer="english",
            refresh_seconds=None,
        )  # fmt: skip
        self.searcher = Searcher(
            store=self.store, embedder=self.searches, defaults=Defaults(), metrics=metrics, tracer=tracer
        )
        self.documents = Documents(store=self.store, metrics=metrics)

    async def start(self) -> None:
        """Opens the store and begins the work in the background."""
        await self.store.open()
        self.ingestion.start()
        self.keeper.start()

    async def stop(self) -> None:
        """Ends without another change, as a kill does."""
        self.client.dead = True
        await self.keeper.stop()
        await self.ingestion.stop()

    async def put(self, principal: Principal, documents: Mapping[str, Content]) -> AsyncGenerator[str, None]:
        """Ingests texts with their groups by id; yields the ids as they are acknowledged."""

        async def uploads() -> AsyncGenerator[Upload, None]:
            for name, (text, groups) in documents.items():
                header = Header(source="d.txt", media_type="text/plain", title="T", groups=groups)
                yield Upload(document_id=name, header=header, data=text.encode())

        async for result in self.ingestion.run(principal, uploads(), Timings()):
            assert result.state is not State.REJECTED
            yield result.document_id

    async def settled(self) -> None:
        """Waits until nothing is being built or dropped."""
        async with asyncio.timeout(20):
            while not self.client.dead and _UNSETTLED & self._states():  # noqa: ASYNC110 -- the catalogue tells nobody
                await asyncio.sleep(0.001)

    def _states(self) -> set[SnapshotState]:
        return {one.state for one in self.store.catalogue.snapshots.values()}
