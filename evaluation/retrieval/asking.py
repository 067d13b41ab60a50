"""Asks the queries of a benchmark in one mode after the other, and times each call."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.retrieval.documents import side_by_side
from tandem.client import AsyncRetrieverClient
from tandem.errors import FailedPrecondition, Overloaded, Unimplemented
from tandem.v1 import retriever_service_pb2 as retriever

TOP_K = 100
_MAX_QUERY = 8192
_WARM_UP = 3
_TRIES, _PAUSE_S = 6, 1.0


@dataclass(frozen=True)
class Mode:
    """Is one way to search."""

    name: str
    search: "retriever.SearchMode.ValueType"
    rerank: bool = False
    fusion: retriever.Fusion | None = None


MODES = {
    mode.name: mode
    for mode in (
        Mode("dense", retriever.SEARCH_MODE_DENSE),
        Mode("sparse", retriever.SEARCH_MODE_SPARSE),
        Mode("hybrid", retriever.SEARCH_MODE_HYBRID),
        Mode("hybrid + rerank", retriever.SEARCH_MODE_HYBRID, rerank=True),
    )
}


class NotServed(Exception):
    """Says why a mode cannot be measured here."""


@dataclass
class Answers:
    """Holds what one mode answered: by query the documents, best first, and the seconds that the call took."""

    rankings: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of the server's own stages."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Is how to ask: by which names the documents are known, and what narrows the search to them."""

    client: AsyncRetrieverClient
    names: Mapping[str, str]
    """Name in the corpus by document id; passages of other documents are passed over."""
    search_filter: retriever.SearchFilter
    snapshot: str = ""
    concurrency: int = 4
    timeout_s: float | None = None

    async def ask(self, mode: Mode, queries: Mapping[str, str], on_done: Callable[[], None]) -> Answers:
        """Asks all queries, some at once; raises NotServed where the services do not have the mode."""
        for text in list(queries.values())[:_WARM_UP]:
            await self._patiently(mode, text)
        found = Answers()
        waiting = deque(queries.items())

        async def work() -> None:
            while waiting:
                name, text = waiting.popleft()
                response, found.seconds[name] = await self._patiently(mode, text)
                found.rankings[name] = self.documents(response.passages)
                for timing in response.timings:
                    taken = timing.duration.ToMicroseconds() / 1e6
                    found.stages.setdefault(timing.stage, []).append(taken)
                on_done()

        await side_by_side(work, min(self.concurrency, len(queries)))
        return found

    async def _patiently(self, mode: Mode, text: str) -> tuple[retriever.SearchResponse, float]:
        """Returns an answer and the seconds that its call took; where the services are full, waits as they ask for."""
        tries = _TRIES
        while True:
            started = time.perf_counter()
            try:
                return await self._search(mode, text), time.perf_counter() - started
            except Overloaded as error:
                tries -= 1
                if tries == 0:
                    raise
                await asyncio.sleep(max(_PAUSE_S, error.retry_after_s))

    def documents(self, passages: Sequence[object]) -> list[str]:
        """Returns the documents of passages by their best one, in order."""
        ids = (getattr(passage, "document_id", "") for passage in passages)
        return list(dict.fromkeys(self.names[document_id] for document_id in ids if document_id in self.names))

    async def _search(self, mode: Mode, text: str) -> retriever.SearchResponse:
        try:
            response = await self.client.search(
                text[:_MAX_QUERY],
                top_k=TOP_K,
                mode=mode.search,
                search_filter=self.search_filter,
                fusion=mode.fusion,
                # Judgements may name one of two documents with the same text, and not the better of them.
                keep_duplicates=True,
                rerank=mode.rerank,
                snapshot=self.snapshot,
                timeout=self.timeout_s,
            )
        except (FailedPrecondition, Unimplemented) as error:
            raise NotServed(error.message) from None
        if mode.rerank and response.passages and not any(p.HasField("rerank_score") for p in response.passages):
            raise NotServed("the retriever does not rerank")
        return response


def some(queries: Mapping[str, str], most: int | None, *, seed: int) -> dict[str, str]:
    """Returns all queries, or so many of them, drawn by the seed."""
    if most is None or most >= len(queries):
        return dict(queries)
    names = set(random.Random(seed).sample(sorted(queries), most))  # noqa: S311
    return {name: text for name, text in queries.items() if name in names}
