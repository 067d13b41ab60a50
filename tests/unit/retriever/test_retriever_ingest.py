import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain

import pytest
from prometheus_client import CollectorRegistry

from services.retriever.domain import MARKDOWN, DocumentKey, EmbeddingModel, Header
from services.retriever.domain.uploads import Result, State, Timings, Upload
from services.retriever.ingest.batcher import Batcher
from services.retriever.ingest.pipeline import Ingestion
from services.retriever.ingest.window import Limits
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import FailedPrecondition, InvalidInput, Overloaded, Unavailable
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tests.fakes.retriever import DIMENSION, DOWN, FakeEmbedder, FakeParser, FakeStore

ERIN = Principal("erin", "halden", frozenset({"leads"}), frozenset({"editor"}))
OTTO = Principal("otto", "halden", frozenset(), frozenset({"editor"}))


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until something has happened."""
    while not condition():  # noqa: ASYNC110 -- nothing here to wait on, and no time passes
        await asyncio.sleep(0)


def upload(document_id: str, text: str = "# Title\n\nSome words.", **fields: object) -> Upload:
    header = Header(**{"source": f"{document_id}.md", "media_type": MARKDOWN, **fields})
    return Upload(document_id=document_id, header=header, data=text.encode())


class Room:
    def __init__(self, *, streams: int = 2, documents: int = 8, size: int = 10_000) -> None:
        self.store, self.embedder, self.parser = FakeStore(), FakeEmbedder(), FakeParser()
        self.registry = CollectorRegistry()
        self.ingestion = Ingestion(
            store=self.store,
            embedder=self.embedder,
            parser=self.parser,
            limits=Limits(streams=streams, documents=documents, bytes=size, chunk_characters=200),
            metrics=RetrieverMetrics(self.registry),
            tracer=Telemetry("retriever").tracer,
        )

    async def __aenter__(self) -> "Room":
        self.ingestion.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.ingestion.stop()

    async def run(self, *uploads: Upload, principal: Principal = ERIN) -> list[Result]:
        async def arriving() -> AsyncIterator[Upload]:
            for item in uploads:
                yield item

        return [result async for result in self.ingestion.run(principal, arriving(), Timings())]

    def text(self, document_id: str) -> str:
        row = self.store.rows[DocumentKey("halden", document_id)]
        return self.store.texts[row.key, row.version]


async def test_documents_are_indexed_under_their_title_and_path() -> None:
    async with Room() as room:
        results = await room.run(upload("a", "# Motor\n\nNo excess."), upload("b", "Bare.", title="Given"))
        assert [(r.state, r.num_chunks) for r in results] == [(State.INDEXED, 1)] * 2
        titles = [room.store.rows[DocumentKey("halden", i)].header.title for i in ("a", "b")]
        assert titles == ["Motor", "Given"]
        assert list(chain(*room.embedder.batches)) == ["Motor\n# Motor\n\nNo excess.", "Given\nBare."]
        (_, chunk) = next(iter(room.store.chunks.values()))
        assert chunk.content[chunk.prefix_length :] == "# Motor\n\nNo excess."


async def test_only_what_differs_in_bytes_or_header_is_done_again() -> None:
    async with Room() as room:
        assert [r.state for r in await room.run(upload("a"))] == [State.INDEXED]
        assert [r.state for r in await room.run(upload("a"))] == [State.UNCHANGED]
        assert len(room.parser.parsed) == 1
        for changed in (upload("a", "other"), upload("a", "other", title="T"), upload("a", "other", groups=("leads",))):
            assert [r.state for r in await room.run(changed)] == [State.INDEXED]
        assert len(room.store.texts) == 1


async def test_a_bad_document_stops_no_other() -> None:
    faulty = Upload("c", Header(source="", media_type=""), b"", fault=InvalidInput.of("title", "is odd"))
    async with Room() as room:
        results = await room.run(upload("a"), upload("b", "reject me"), faulty, upload("d"))
        assert [r.state.value for r in results] == ["indexed", "rejected", "rejected", "indexed"]
        assert [r.error.reason for r in results if r.error] == ["MALFORMED", "INVALID_INPUT"]
        value = room.registry.get_sample_value
        assert value("tandem_retriever_documents_total", {"state": "rejected"}) == 2
        assert value("tandem_retriever_parse_failures_total", {"reason": "MALFORMED"}) == 1


async def test_an_invisible_document_is_not_overwritten() -> None:
    async with Room() as room:
        await room.run(upload("a", "for leads", groups=("leads",)))
        (result,) = await room.run(upload("a", "mine"), principal=OTTO)
        assert result.state is State.REJECTED
        assert result.error is not None
        assert result.error.code == "PERMISSION_DENIED"
        assert room.text("a") == "for leads"


async def test_results_keep_the_order_of_arrival_and_the_last_version_wins() -> None:
    async with Room() as room:
        room.parser.slow[b"first"] = asyncio.Event()
        run = asyncio.create_task(room.run(upload("a", "first"), upload("b"), upload("a", "second")))
        await until(lambda: bool(room.store.writes))
        assert room.store.writes == [["b"]]
        room.parser.slow[b"first"].set()
        results = await run
        assert [r.document_id for r in results] == ["a", "b", "a"]
        assert room.text("a") == "second"


async def test_a_result_does_not_wait_for_the_next_document() -> None:
    async with Room() as room:
        go_on = asyncio.Event()

        async def arriving() -> AsyncIterator[Upload]:
            yield upload("a")
            await go_on.wait()
            yield upload("b")

        seen = []
        async for result in room.ingestion.run(ERIN, arriving(), Timings()):
            seen.append(result.document_id)
            go_on.set()
        assert seen == ["a", "b"]


async def test_a_stream_holds_a_bounded_number_of_documents_and_bytes() -> None:
    for room in (Room(documents=3), Room(size=3 * len("# Title\n\nSome words."))):
        async with room:
            room.embedder.gate.clear()
            taken = []

            async def arriving(taken: list[int] = taken) -> AsyncIterator[Upload]:
                for number in range(10):
                    taken.append(number)
                    yield upload(f"d{number}")

            async def collect(room: Room = room, uploads: AsyncIterator[Upload] | None = None) -> int:
                assert uploads is not None
                return len([r async for r in room.ingestion.run(ERIN, uploads, Timings())])

            run = asyncio.create_task(collect(uploads=arriving()))
            await until(lambda room=room: len(room.parser.parsed) >= 3)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(taken) == 3
            room.embedder.gate.set()
            assert await run == 10


async def test_documents_that_wait_share_calls_and_writes() -> None:
    async with Room(documents=100) as room:
        room.embedder.gate.clear()
        run = asyncio.create_task(room.run(*(upload(f"d{n}") for n in range(40))))
        await until(lambda: len(room.parser.parsed) >= 40)
        room.embedder.gate.set()
        assert len(await run) == 40
        assert len(room.embedder.batches) <= 4
        assert len(room.store.writes) <= 4


async def test_a_fault_of_the_house_ends_the_stream_and_frees_its_place() -> None:
    async with Room(streams=1) as room:
        room.embedder.fault = Unavailable("no embedder")
        with pytest.raises(Unavailable):
            await room.run(upload("a"), upload("b"))
        room.embedder.fault = None
        room.store.fault = DOWN
        with pytest.raises(Unavailable):
            await room.run(upload("a"))
        room.store.fault = None
        assert [r.state for r in await room.run(upload("a"), upload("b"))] == [State.INDEXED] * 2


async def test_another_embedding_model_is_refused() -> None:
    async with Room() as room:
        await room.run(upload("a"))
        room.embedder.model = EmbeddingModel("other", "0" * 64, DIMENSION)
        with pytest.raises(FailedPrecondition):
            await room.run(upload("b"))


async def test_too_many_streams_are_refused_and_one_that_leaves_makes_room() -> None:
    async with Room(streams=1) as room:
        room.embedder.gate.clear()
        run = asyncio.create_task(room.run(upload("a")))
        await until(lambda: bool(room.parser.parsed))
        with pytest.raises(Overloaded):
            await room.run(upload("b"))
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        room.embedder.gate.set()
        assert len(await room.run(upload("b"))) == 1
        assert DocumentKey("halden", "a") not in room.store.rows


async def test_batches_keep_to_their_limits_and_drop_those_who_left() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def run(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        await gate.wait()
        return [item * 2 for item in items]

    batcher: Batcher[int, int] = Batcher(run, max_weight=10, max_items=3)
    batcher.start()
    tasks = [asyncio.create_task(batcher.submit(item, weight=weight)) for item, weight in
             ((1, 1), (2, 6), (3, 6), (4, 1), (5, 1), (6, 1), (7, 99))]  # fmt: skip
    await until(lambda: bool(batches))
    for _ in range(5):
        await asyncio.sleep(0)
    tasks[4].cancel()
    await asyncio.gather(tasks[4], return_exceptions=True)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [2, 4, 6, 8, 12, 14]
    assert 5 not in chain(*batches)
    assert all(len(batch) <= 3 for batch in batches)
    assert batches[-1] == [7]
    await batcher.stop()
    with pytest.raises(Unavailable):
        await batcher.submit(8, weight=1)


async def test_a_batch_that_crashes_fails_its_callers_and_no_other() -> None:
    async def run(items: Sequence[int]) -> Sequence[int]:
        return [1 // item for item in items]

    batcher: Batcher[int, int] = Batcher(run, max_weight=10, max_items=1)
    batcher.start()
    with pytest.raises(ZeroDivisionError):
        await batcher.submit(0, weight=1)
    assert await batcher.submit(1, weight=1) == 1
    await batcher.stop()
