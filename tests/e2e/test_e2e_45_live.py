"""What appears in a watched folder can be asked about moments later, and is gone with its file."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tandem.client import AsyncRetrieverClient, AsyncRouterClient
from tests.e2e.stack import Stack

QUESTION = "When does the museum of kites open?"
SECONDS = 20


async def until(seen: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await seen():  # noqa: ASYNC110 -- what is waited for is in another process
            await asyncio.sleep(0.1)


async def test_a_notice_is_asked_about_moments_after_it_appears(stack: Stack, notices: Path) -> None:
    address, token = stack.address["retriever"], stack.tokens["loader"]
    async with AsyncRetrieverClient(address, token=token, timeout=30) as client:

        async def says(time: str) -> bool:
            found = await client.search(QUESTION, top_k=3)
            return [time in row.text for row in found.passages if row.document_id == "notices.museum.md"] == [True]

        async def is_gone() -> bool:
            return "notices.museum.md" not in {document.document_id async for document in client.list_documents()}

        for time in ("10:20", "11:40"):
            (notices / "museum.new").write_text(f"# Museum of kites\n\nThe museum of kites opens at {time}.\n")
            (notices / "museum.new").rename(notices / "museum.md")
            await until(partial(says, time))
        async with AsyncRouterClient(stack.address["router"], token=token, timeout=120) as asking:
            answer = await asking.ask(QUESTION, policy="rag")
        assert any("11:40" in passage.text for passage in answer.passages)
        assert not await is_gone()
        (notices / "other.md").write_text("The library is closed on Mondays.")  # an empty folder would delete nothing
        (notices / "museum.md").unlink()
        await until(is_gone)


def test_a_feed_that_cannot_be_had_is_told_once(stack: Stack) -> None:
    lines = [line for line in stack.logs("retriever").splitlines() if "live source fails" in line]
    assert len(lines) == 1
    assert '"source": "prices"' in lines[0]
    assert 'tandem_retriever_source_failures_total{source="prices"}' in stack.scrape("retriever")
