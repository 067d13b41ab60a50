"""What the store port promises about snapshots, on Milvus Lite and on a Milvus 2.3.5 server."""

from dataclasses import replace

import pytest

from services.retriever.backend.store import MilvusStore
from services.retriever.domain import INITIAL, Snapshot, SnapshotsChanged
from tests.fakes.retriever import DIMENSION, embed
from tests.fakes.stored_documents import NOW, document, view

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_snapshot_is_filled_promoted_rolled_back_and_dropped(store: MilvusStore, tenant: str) -> None:
    new = document(tenant, "d", "one", "two", "three")
    await store.put([new])
    snapshot = Snapshot(
        key="next", snapshot_id="next", chunk_characters=200, analyzer="english", dimension=DIMENSION, create_time=NOW
    )
    await store.make(snapshot)
    await store.change(lambda catalogue: catalogue.created(snapshot))
    with pytest.raises(SnapshotsChanged):
        await store.put([document(tenant, "e", "cut for one snapshot alone")])
    live = (await store.live([new.document.key]))[new.document.key]
    pieces = new.chunks[INITIAL][:2]
    await store.fill("next", [(live, pieces)])
    await store.change(lambda catalogue: catalogue.built("next", NOW).promoted("next", NOW))
    with store.hold("") as one:
        assert one.snapshot_id == "next"
    for key, count in (("next", 2), (INITIAL, 3)):
        hits = await store.search_dense(embed("one"), view(tenant), snapshot=key, limit=9)
        assert len(hits) == count
    both = replace(document(tenant, "e", "text"), chunks={INITIAL: pieces, "next": pieces[:1]})
    await store.put([both])
    await store.remove(new.document)
    for key, count in (("next", 1), (INITIAL, 2)):
        hits = await store.search_dense(embed("one"), view(tenant), snapshot=key, limit=9)
        assert {hit.key for hit in hits} == {both.document.key}
        assert len(hits) == count
    await store.change(lambda catalogue: catalogue.rolled_back(NOW).dropped("next", NOW))
    assert await store.drop(store.catalogue.snapshots["next"])
    await store.change(lambda catalogue: catalogue.without("next"))
    assert list((await store.refresh()).snapshots) == [INITIAL]
