"""A thousand real passages go in and come out through the same path as the sample."""

import asyncio
import time

from tandem.client import AsyncRetrieverClient, Upload
from tests.e2e.stack import Stack

PASSAGES, QUESTIONS = 1000, 200


async def test_a_thousand_passages(stack: Stack, squad: tuple[dict[str, dict], list[dict]], capsys) -> None:
    passages, questions = squad
    asked = [row for row in questions if row["gold"] in passages][:QUESTIONS]
    gold = {row["gold"] for row in asked}
    chosen = [passages[key] for key in sorted(gold)] + [row for key, row in passages.items() if key not in gold]
    uploads = [
        Upload(document_id=row["_id"], source=f"{row['_id']}.txt", title=row["title"], data=row["text"].encode())
        for row in chosen[:PASSAGES]
    ]
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["loader"], timeout=30) as client:
        start = time.perf_counter()
        events = [event async for event in client.ingest(uploads, timeout=300)]
        ingest_s = time.perf_counter() - start
        assert events[-1].finished.num_indexed == len(uploads) == PASSAGES
        results = [event.result for event in events if event.HasField("result")]
        assert [result.document_id for result in results] == [upload.document_id for upload in uploads]
        assert {document.document_id async for document in client.list_documents()} >= {u.document_id for u in uploads}

        hits, start = 0, time.perf_counter()
        for first in range(0, len(asked), 8):
            batch = asked[first : first + 8]
            found = await asyncio.gather(*(client.search(row["question"], top_k=10) for row in batch))
            for row, reply in zip(batch, found, strict=True):
                assert reply.passages
                hits += row["gold"] in {passage.document_id for passage in reply.passages}
        search_s = time.perf_counter() - start
        again = [event async for event in client.ingest(uploads[:50], timeout=60)]
    assert again[-1].finished.num_unchanged == 50
    recall = hits / len(asked)
    with capsys.disabled():
        print(
            f"\n  {PASSAGES} passages ingested in {ingest_s:.1f} s ({PASSAGES / ingest_s:.0f}/s), "
            f"{len(asked)} searches in {search_s:.1f} s ({len(asked) / search_s:.0f}/s), recall@10 {recall:.3f}"
        )
    assert recall >= 0.9
