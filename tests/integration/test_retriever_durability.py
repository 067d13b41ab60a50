"""What an acknowledgement is worth: real processes, killed without warning."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.retriever.backend.lite import LiteServer
from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.domain import (
    INITIAL,
    Chunk,
    DocumentKey,
    EmbeddingModel,
    Header,
    NewChunk,
    NewDocument,
    StoredDocument,
)
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import ConfigError, FailedPrecondition
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc
from tests.fakes.retriever import DIMENSION, MODEL, embed, embedder_peer
from tests.fakes.retriever_process import House, engine_of, is_alive, kill_tree

SERVICE = "tandem.v1.RetrieverService"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with embedder_peer() as embedder:
        yield House(tmp_path, embedder)


async def ingest(stub: pb_grpc.RetrieverServiceStub, acknowledged: dict[str, str], numbers: range) -> None:
    """Writes documents over and over in new versions; notes which text of each was acknowledged last."""

    async def frames() -> AsyncIterator[pb.IngestDocumentsRequest]:
        for number in numbers:
            header = pb.DocumentHeader(document_id=f"d{number % 7}", source="d.txt")
            yield pb.IngestDocumentsRequest(header=header)
            yield pb.IngestDocumentsRequest(data=f"Statement of version {number}. It holds.".encode())

    order = iter(numbers)
    async for event in stub.IngestDocuments(frames()):
        if event.WhichOneof("event") == "result":
            assert event.result.state == pb.IngestResult.STATE_INDEXED
            acknowledged[event.result.document_id] = f"version {next(order)}."


def version_of(text: str) -> int:
    return int(text.split("version ")[1].split(".")[0])


@pytest.mark.parametrize("engine_too", [True, False])
async def test_what_was_acknowledged_survives_kill_9(house: House, engine_too: bool) -> None:
    acknowledged: dict[str, str] = {}
    async with house.up() as (process, stub):
        writing = asyncio.create_task(ingest(stub, acknowledged, range(100_000)))
        while len(acknowledged) < 7 or version_of(max(acknowledged.values(), key=version_of)) < 60:
            await asyncio.wait({writing}, timeout=0.02)
            assert not writing.done()
        orphans = kill_tree(process, engine_too=engine_too)
        with pytest.raises(grpc.aio.AioRpcError):
            await writing
    async with house.up() as (process, stub):
        assert not any(is_alive(orphan) for orphan in orphans)
        found = await stub.Search(pb.SearchRequest(query="statement version", top_k=100))
        texts = {passage.document_id: passage.text for passage in found.passages}
        assert len(found.passages) == len(texts) == 7  # one version of each, whole
        for document_id, version in acknowledged.items():
            got = await stub.GetDocument(pb.GetDocumentRequest(document_id=document_id, include_text=True))
            assert got.text == texts[document_id]
            assert version_of(got.text) >= version_of(version)
        deleted = await stub.DeleteDocument(pb.DeleteDocumentRequest(document_id="d0"))
        assert deleted.num_chunks == 1
        assert len((await stub.Search(pb.SearchRequest(query="statement version", top_k=100))).passages) == 6
        engine = engine_of(process)
    assert not engine.is_running()


async def test_an_engine_that_dies_alone_is_started_again(house: House) -> None:
    async with house.up() as (process, stub):
        acknowledged: dict[str, str] = {}
        await ingest(stub, acknowledged, range(7))
        for round_number in (1, 2):
            engine = engine_of(process)
            searches = [stub.Search(pb.SearchRequest(query="statement version", top_k=100)) for _ in range(3)]
            engine.kill()
            for search in searches:
                assert len((await search).passages) == 7
            await ingest(stub, acknowledged, range(7 * round_number, 7 * round_number + 7))
            assert engine_of(process).pid != engine.pid
    assert house.log.count(b"Milvus Lite runs again") == 2


def config(folder: Path, **fields: object) -> RetrieverConfig:
    settings = {"milvus_uri": str(folder / "milvus.db"), "dimension": DIMENSION, **fields}
    return RetrieverConfig(**settings)


@asynccontextmanager
async def opened(folder: Path, **fields: object) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(config(folder, **fields), metrics=RetrieverMetrics(Telemetry("retriever").registry))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def document(text: str, version: str) -> NewDocument:
    stored = StoredDocument(
        key=DocumentKey("halden", "d"),
        header=Header(source="d.txt", media_type="text/plain", title="d"),
        version=version,
        content_sha256="0" * 64,
        header_sha256="0" * 64,
        num_chunks=1,
        num_characters=len(text),
        update_time=1,
    )
    chunk = NewChunk(chunk=Chunk(start=0, end=len(text)), content=f"d\n{text}", prefix_length=2, vector=embed(text))
    return NewDocument(document=stored, text=text, chunks={INITIAL: [chunk]})


KEY = DocumentKey("halden", "d")


class Broken(Exception):
    pass


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


async def row_counts(store: MilvusStore) -> tuple[int, ...]:
    def do(client: Any, timeout: float) -> tuple[int, ...]:
        names = ("tandem_s_initial", "tandem_texts", "tandem_documents", "tandem_meta")
        fields = ["count(*)"]
        rows = [client.query(name, filter='id > ""', output_fields=fields, timeout=timeout) for name in names]
        return tuple(row[0]["count(*)"] for row in rows)

    return await store.connection.call(do)


async def test_a_write_that_breaks_off_anywhere_leaves_one_whole_version_and_is_cleared_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for allowed in range(8):
            await store.put([document("the old text", f"old{allowed}")])
            with breaking(store, allowed):
                await store.put([document("the new text", f"new{allowed}")])
            live = (await store.live([KEY]))[KEY]
            replaced = allowed >= 4  # after intent, text, chunks and the document's row
            assert (live.version, await store.text(live)) == (
                (f"new{allowed}", "the new text") if replaced else (f"old{allowed}", "the old text")
            )
            await store.put([document("the next text", f"next{allowed}")])
            assert await row_counts(store) == (1, 1, 1, 2)  # of meta the schema's version and the snapshots


async def test_a_removal_that_breaks_off_anywhere_is_cleared_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for allowed in range(5):
            await store.put([document("the text", f"v{allowed}")])
            live = (await store.live([KEY]))[KEY]
            with breaking(store, allowed):
                await store.remove(live)
            assert (await store.live([KEY]) == {}) == (allowed >= 2)
    async with opened(tmp_path) as store:  # a start settles as a write does
        for left in (await store.live([KEY])).values():
            await store.remove(left)
        assert await row_counts(store) == (0, 0, 0, 2)


async def test_a_file_serves_one_retriever(tmp_path: Path) -> None:
    first, second = LiteServer(tmp_path / "milvus.db"), LiteServer(tmp_path / "milvus.db")
    await first.start()
    with pytest.raises(ConfigError, match="in use by another process"):
        await second.start()
    await second.stop()
    await first.stop()
    await second.start()
    await second.stop()


async def test_a_collection_keeps_its_dimension_and_model(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.adopt_model(MODEL)
    with pytest.raises(ConfigError, match=r"RETRIEVER_DIMENSION is 33.*RETRIEVER_COLLECTION"):
        async with opened(tmp_path, dimension=33):
            pass
    async with opened(tmp_path) as store:
        assert store.catalogue.live.model == MODEL
        with pytest.raises(FailedPrecondition):
            await store.adopt_model(EmbeddingModel(name="other", sha256="cd" * 32, dimension=DIMENSION))


def test_pymilvus_does_not_print_what_failed_calls_said(tmp_path: Path) -> None:
    # In a process of its own: the first import of pymilvus sets its levels.
    program = f"""
import asyncio, logging
from pathlib import Path
from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.metrics import RetrieverMetrics
from tandem.telemetry import Telemetry

async def main():
    config = RetrieverConfig(milvus_uri={str(tmp_path / "milvus.db")!r})
    store = MilvusStore(config, metrics=RetrieverMetrics(Telemetry("retriever").registry))
    await store.open()
    loud = [name for name in logging.root.manager.loggerDict if name.startswith(("pymilvus.client", "pymilvus.dec"))]
    print(len(loud) > 0, any(logging.getLogger(name).isEnabledFor(logging.CRITICAL) for name in loud))
    await store.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["True", "False"], done.stdout + done.stderr
