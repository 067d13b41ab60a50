"""Parsing processes and the files that want to harm them."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import psutil
import pytest

from services.retriever.domain import EMAIL, HTML, MARKDOWN, PDF, PLAIN, Unreadable
from services.retriever.ingest.worker import FRAME
from services.retriever.ingest.workers import ParserPool
from tests.fakes import hostile


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    pool = ParserPool(workers=1, seconds=20, memory_mib=256, chunk_characters=100, max_characters=1_000_000)
    yield pool
    await pool.close()


def workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "services.retriever.ingest.worker" in child.cmdline()]


async def refused(pool: ParserPool, data: bytes, media_type: str) -> str:
    with pytest.raises(Unreadable) as caught:
        await pool.parse(data, media_type)
    return caught.value.reason


async def test_a_document_comes_back_cut(pool: ParserPool) -> None:
    parsed = await pool.parse(b"# One\n\nFirst.\n\n# Two\n\nSecond.", MARKDOWN)
    assert [parsed.text[c.start : c.end] for c in parsed.chunks] == ["# One\n\nFirst.", "# Two\n\nSecond."]
    assert (parsed.title, parsed.chunks[1].headings) == ("One", ("Two",))
    assert await refused(pool, b"", PLAIN) == "NO_TEXT"


async def test_one_process_serves_many_and_none_outlives_the_pool(pool: ParserPool) -> None:
    for number in range(3):
        await pool.parse(f"text {number}".encode(), PLAIN)
        if not number:
            first = workers()
    assert workers() == first
    await pool.close()
    assert workers() == []


async def test_a_process_that_dies_rejects_one_document(pool: ParserPool) -> None:
    await pool.parse(b"text", PLAIN)
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    running = asyncio.create_task(refused(pool, b"text", PLAIN))
    await asyncio.sleep(0)
    os.kill(worker.pid, signal.SIGKILL)
    assert await running == "CRASHED"
    assert (await pool.parse(b"text again", PLAIN)).text == "text again"


async def test_memory_is_bounded(pool: ParserPool) -> None:
    assert await refused(pool, b"<p>x</p>" * 4_000_000, HTML) == "MEMORY"
    assert (await pool.parse(b"text", PLAIN)).text == "text"


async def test_time_is_bounded() -> None:
    pool = ParserPool(workers=1, seconds=0.1, memory_mib=256, chunk_characters=100, max_characters=100_000_000)
    try:
        assert await refused(pool, b"<i>x</i> " * 3_000_000, HTML) == "TIMEOUT"
        assert workers() == []
    finally:
        await pool.close()


async def test_a_pdf_that_unpacks_beyond_the_memory_is_refused(pool: ParserPool) -> None:
    bomb = hostile.pdf_bomb(512)
    assert len(bomb) < 100_000
    assert await refused(pool, bomb, PDF) == "MEMORY"
    assert (await pool.parse(b"text", PLAIN)).text == "text"


async def test_a_process_computes_no_longer_than_it_may_even_when_nobody_ends_it() -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.retriever.ingest.worker", "512", "0", stdin=PIPE, stdout=PIPE
    )
    head = json.dumps({"media_type": MARKDOWN, "limit": 100, "max_characters": 100_000_000}).encode()
    body = head + b"\n" + b"- a\n  - b\n" * 1_000_000
    out, _ = await worker.communicate(FRAME.pack(len(body)) + body)
    assert (worker.returncode, out) == (-signal.SIGXCPU, b"")


async def test_deep_nesting_is_refused(pool: ParserPool) -> None:
    assert await refused(pool, b"<div>" * 100_000 + b"x", HTML) == "TOO_DEEP"
    assert await refused(pool, hostile.mail(depth=100_000), EMAIL) == "TOO_DEEP"
    (worker,) = workers()
    assert (await pool.parse(b"text", PLAIN)).text == "text"
    assert workers() == [worker], "what is refused in good order costs no process"


async def test_a_caller_that_leaves_takes_its_process_along(pool: ParserPool) -> None:
    await pool.parse(b"text", PLAIN)
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    running = asyncio.create_task(pool.parse(b"slow", PLAIN))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not worker.is_running()
    assert (await pool.parse(b"fast", PLAIN)).text == "fast"
