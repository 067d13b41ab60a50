"""What an acknowledgement is worth, on Milvus Lite and on a Milvus 2.3.5 server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from services.retriever.backend import writing
from services.retriever.backend.store import MilvusStore
from services.retriever.domain import INITIAL
from tandem.errors import ConfigError, FailedPrecondition, Unavailable
from tests.fakes.milvus_server import milvus_server
from tests.fakes.retriever import MODEL, embed
from tests.fakes.stored_documents import anew, document, principal, view
from tests.fakes.stores import Subject, breaking, opened

T = TypeVar("T")
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def found(store: MilvusStore, tenant: str) -> list[tuple[str, str]]:
    hits = await store.search_dense(embed("text"), view(tenant), snapshot=INITIAL, limit=99)
    return sorted((hit.key.document_id, hit.version) for hit in hits)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a store on a server settle at once what another replica might still be writing."""
    monkeypatch.setattr(writing, "_GRACE_US", 0)


@pytest.mark.usefixtures("no_grace")
async def test_a_write_that_breaks_off_leaves_one_whole_version(store: MilvusStore, tenant: str) -> None:
    for allowed in (0, 2, 3, 4, 6):
        old = document(tenant, "d", "the old text")
        await store.put([old])
        new = anew(old)
        with breaking(store, allowed):
            await store.put([new])
        # What was not acknowledged may be seen or not until another write is; whichever is seen is whole.
        live = (await store.live([old.document.key]))[old.document.key]
        assert await store.text(live) == "the old text"
        other = document(tenant, "e", "another text")
        await store.put([other])  # settles
        replaced = allowed >= 4  # after intent, text, chunks and the document's row
        left = (new if replaced else old).document
        assert (await store.live([left.key]))[left.key].version == left.version
        assert await found(store, tenant) == [("d", left.version), ("e", other.document.version)]


@pytest.mark.usefixtures("no_grace")
async def test_a_start_settles_what_a_crash_has_left(
    subject: Subject, tenant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Milvus Lite serves one store at a time, so the one that crashes has a file of its own.
    own = {"milvus_uri": str(tmp_path / "milvus.db")} if subject.name == "lite" else {}
    settings = {**subject.settings, **own, "consistency": "Strong"}
    old = document(tenant, "d", "the old text")
    async with opened(settings) as store:
        await store.put([old])
        with breaking(store, 3):
            await store.put([anew(old)])
        assert len(await found(store, tenant)) == 2
    with caplog.at_level(logging.INFO):
        async with opened(settings) as store:
            assert await found(store, tenant) == [("d", old.document.version)]
    assert "settled an interrupted write" in caplog.text
    with pytest.raises(ConfigError, match="RETRIEVER_DIMENSION"):
        async with opened({**settings, "dimension": 33}):
            pass


async def test_the_model_of_the_first_document_stays(store: MilvusStore) -> None:
    await store.adopt_model(MODEL)
    await store.adopt_model(MODEL)
    assert (await store.refresh()).live.model == MODEL
    other = type(MODEL)(name="other", sha256="cd" * 32, dimension=MODEL.dimension)
    with pytest.raises(FailedPrecondition):
        await store.adopt_model(other)


async def test_another_replica_sees_at_once_what_was_acknowledged(server: Subject, tenant: str) -> None:
    async with opened(server.settings) as other:
        new = document(tenant, "d", "text")
        for _ in range(5):
            new = anew(new)
            await server.store.put([new])
            assert await found(other, tenant) == [("d", new.document.version)]
            assert [one.version for one in await other.page(principal(tenant), after="", limit=9)] == [
                new.document.version
            ]
            await server.store.remove(new.document)
            assert await other.live([new.document.key]) == {}


async def test_a_server_that_was_killed_has_what_was_acknowledged(tmp_path: Path, tenant: str) -> None:
    kept, removed = document(tenant, "kept", "text"), document(tenant, "removed", "text")
    with ExitStack() as life:
        running = life.enter_context(milvus_server(tmp_path))
        settings: dict[str, object] = {"milvus_uri": f"http://{running.address}", "store_timeout_seconds": 3.0}
        async with opened(settings) as store:
            await store.put([kept, removed])
            await store.remove(removed.document)
            life.close()
            with pytest.raises(Unavailable):
                await store.live([kept.document.key])
            with pytest.raises(Unavailable):
                await store.put([document(tenant, "late", "text")])
            port = int(running.address.rpartition(":")[2])
            life.enter_context(milvus_server(tmp_path, port=port))
            seen = await _once_it_is_back(lambda: found(store, tenant))
            assert seen == [("kept", kept.document.version)]
            await _once_it_is_back(lambda: store.put([document(tenant, "later", "text")]))
            assert len(await found(store, tenant)) == 2


async def _once_it_is_back(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks until the collections are loaded again; nothing else than Unavailable may come up to then."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.1)
