"""The embedder port on one embedder, or on two while the collection goes from one model to another."""

from collections.abc import Sequence
from typing import Protocol

from services.retriever.domain import Embedded, EmbeddingModel
from tandem.errors import FailedPrecondition, Unavailable


class Peer(Protocol):
    """Is an embedder with a model of its own choice."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Returns a vector for each text."""
        ...

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Returns a score for each text."""
        ...


class Embedders:
    """Asks the embedder that serves the wanted model. The first reranks; the last has the newest model."""

    def __init__(self, first: Peer, *more: Peer) -> None:
        self._peers = [first, *more]
        self._models: dict[Peer, EmbeddingModel] = {}

    async def embed(self, texts: Sequence[str], *, model: EmbeddingModel | None = None) -> Embedded:
        """Returns a vector for each text by that model, or by the first embedder's."""
        if model is None:
            return await self._ask(self._peers[0], texts)
        down: Unavailable | None = None
        # The one that is known to serve it comes first; an embedder may have been started anew with another model.
        for peer in sorted(self._peers, key=lambda peer: self._models.get(peer) != model):
            try:
                embedded = await self._ask(peer, texts)
            except Unavailable as error:
                down = error
                continue
            if embedded.model == model:
                return embedded
        if down is not None:
            raise down
        served = ", ".join(f"{other.name} ({other.sha256[:12]})" for other in self._models.values())
        raise FailedPrecondition(
            f"the snapshot was made with the embedding model {model.name} ({model.sha256[:12]}), the embedder serves "
            f"{served}: run the embedder with that model again; to change models, run a second embedder with the new "
            "one, name it by RETRIEVER_EMBEDDER_NEXT_TARGET, and build and promote a snapshot",
            reason="EMBEDDING_MODEL_MISMATCH",
        )

    async def newest(self) -> EmbeddingModel:
        """Returns the model that new snapshots are made with."""
        return (await self._ask(self._peers[-1], ["model"])).model

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Returns a score for each text."""
        return await self._peers[0].rerank(query, texts)

    async def _ask(self, peer: Peer, texts: Sequence[str]) -> Embedded:
        embedded = await peer.embed(texts)
        self._models[peer] = embedded.model
        return embedded
