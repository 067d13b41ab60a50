"""The store port on Milvus: opens and closes, keeps the embedding model; the rest is reading and writing."""

import json
import time
from typing import Any

from services.retriever.backend.connection import MilvusConnection
from services.retriever.backend.reading import Reading
from services.retriever.backend.schema import NO_VECTOR, Names, prepare
from services.retriever.backend.writing import Writing
from services.retriever.config import RetrieverConfig
from services.retriever.domain import EmbeddingModel
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition

_OPEN_TIMEOUT_S = 60.0


class MilvusStore:
    """Keeps all state of the retriever in four collections."""

    def __init__(self, config: RetrieverConfig, *, metrics: RetrieverMetrics) -> None:
        self._config = config
        self._names = Names.of(config.collection)
        self._model: EmbeddingModel | None = None
        self.connection = MilvusConnection(
            uri=config.milvus_uri,
            token=config.milvus_token,
            timeout_s=config.store_timeout_seconds,
            concurrency=config.store_concurrency,
            metrics=metrics,
        )
        reading = Reading(self.connection, self._names)
        self.live, self.page, self.text = reading.live, reading.page, reading.text
        self.search_dense, self.search_sparse = reading.search_dense, reading.search_sparse
        self._writing = Writing(self.connection, self._names)
        self.put, self.remove = self._writing.put, self._writing.remove

    async def open(self) -> None:
        """Connects, makes or checks the collections, and clears up after a crash."""
        await self.connection.open(self._opened)

    async def close(self) -> None:
        """Disconnects."""
        await self.connection.close()

    def _opened(self, client: Any) -> None:
        prepare(client, self._names, config=self._config, embedded=self.connection.embedded, timeout=_OPEN_TIMEOUT_S)
        rows = client.get(self._names.meta, ids=["model"], output_fields=["value"], timeout=_OPEN_TIMEOUT_S)
        self._model = EmbeddingModel(**json.loads(rows[0]["value"])) if rows else None
        self._writing.settle_all(client)

    async def adopt_model(self, model: EmbeddingModel) -> None:
        """Records the model that the collection's vectors come from."""
        if self._model is None:
            self._check_dimension(model)
            value = json.dumps({"name": model.name, "sha256": model.sha256, "dimension": model.dimension})

            def do(client: Any, timeout: float) -> None:
                row = {"id": "model", "value": value, "created": time.time_ns() // 1000, "vector": NO_VECTOR}
                client.upsert(self._names.meta, [row], timeout=timeout)

            await self.connection.call(do)
            self._model = model
        self.check_model(model)

    def check_model(self, model: EmbeddingModel) -> None:
        """Raises FailedPrecondition when the collection's vectors come from another model."""
        self._check_dimension(model)
        if self._model is not None and (self._model.name, self._model.sha256) != (model.name, model.sha256):
            raise FailedPrecondition(
                f"the collection was made with the embedding model {self._model.name} ({self._model.sha256[:12]}), the "
                f"embedder serves {model.name} ({model.sha256[:12]}): run the embedder with that model, or set "
                "RETRIEVER_COLLECTION to a new name and ingest the documents again",
                reason="EMBEDDING_MODEL_MISMATCH",
            )

    def _check_dimension(self, model: EmbeddingModel) -> None:
        if model.dimension != self._config.dimension:
            raise FailedPrecondition(
                f"the embedder's vectors have {model.dimension} components, the collection's {self._config.dimension}: "
                "set RETRIEVER_DIMENSION and RETRIEVER_COLLECTION for that model and ingest the documents again",
                reason="EMBEDDING_MODEL_MISMATCH",
            )
