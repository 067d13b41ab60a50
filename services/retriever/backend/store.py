"""The store port on Milvus: opens and closes, keeps the embedding model; the rest is reading and writing."""

import logging
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.documents import DocumentRows
from services.retriever.backend.known import KnownDocuments
from services.retriever.backend.reading import Reading
from services.retriever.backend.schema import Names, prepare, ranks_by_bm25
from services.retriever.backend.snapshots import SnapshotRows
from services.retriever.backend.writing import Writing
from services.retriever.config import RetrieverConfig
from services.retriever.domain import Catalogue, EmbeddingModel, SnapshotsChanged
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 60.0


class MilvusStore:
    """Keeps all state of the retriever in collections of Milvus."""

    def __init__(
        self, config: RetrieverConfig, *, metrics: RetrieverMetrics, connection: MilvusConnection | None = None
    ) -> None:
        """Keeps it by the configured Milvus unless there is a connection already."""
        self._config = config
        self._names = Names.of(config.collection)
        self.bm25 = True
        self.connection = connection or MilvusConnection(config, metrics=metrics)
        self._snapshots = SnapshotRows(self.connection, self._names, config)
        self.hold, self.refresh = self._snapshots.hold, self._snapshots.refresh
        self.make, self.drop = self._snapshots.make, self._snapshots.drop
        known = KnownDocuments(enabled=self.connection.embedded)  # a server has other replicas, which write too
        documents = DocumentRows(self._names.documents, embedded=self.connection.embedded)
        reading = Reading(self.connection, self._names, self._snapshots, documents, known)
        self.live, self.page, self.text = reading.live, reading.page, reading.text
        self.scan, self.count, self.outlined = reading.scan, reading.count, reading.outlined
        self.search_dense, self.search_sparse = reading.search_dense, reading.search_sparse
        self.vectors, self.neighbours, self.excerpts = reading.vectors, reading.neighbours, reading.excerpts
        self._writing = Writing(self.connection, self._names, self._snapshots, documents, known)
        self.put, self.remove, self.fill = self._writing.put, self._writing.remove, self._writing.fill
        self.change = self._writing.change

    @property
    def catalogue(self) -> Catalogue:
        """The snapshots as far as this process knows."""
        return self._snapshots.catalogue

    async def open(self) -> None:
        """Connects, makes or checks the collections, and clears up after a crash."""
        await self.connection.open(self._opened)

    async def close(self) -> None:
        """Disconnects."""
        await self.connection.close()

    def _opened(self, client: Any) -> None:
        prepare(client, self._names, config=self._config, embedded=self.connection.embedded, timeout=_OPEN_TIMEOUT_S)
        self._snapshots.opened(client)
        live = self._names.chunks_of(self.catalogue.live_key)
        self.bm25 = ranks_by_bm25(client, live, timeout=_OPEN_TIMEOUT_S)
        if not self.bm25:
            log.warning("this Milvus does not rank by BM25: hybrid searches are dense alone, sparse ones are refused")
        self._writing.settle_all(client)

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the model that the live snapshot's vectors come from if none is recorded."""
        live = self.catalogue.live
        if live.model is None:
            if model.dimension != live.dimension:
                raise FailedPrecondition(
                    f"the embedder's vectors have {model.dimension} components, the collection's {live.dimension}: set "
                    f"RETRIEVER_DIMENSION to {model.dimension} and RETRIEVER_COLLECTION to a new name",
                    reason="EMBEDDING_MODEL_MISMATCH",
                )
            await self.change(lambda catalogue: catalogue.adopted(model))
        elif live.model != model:
            raise SnapshotsChanged
