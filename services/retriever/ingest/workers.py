"""The pool of parsing processes. A process that dies, hangs or grows too large takes one document with it, no more."""

import asyncio
import json
import logging
import math
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

from services.retriever.chunking import MAX_HEADING
from services.retriever.domain import Chunk, ParsedDocument, Unreadable, load_outline
from services.retriever.ingest.reasons import refusal
from services.retriever.ingest.worker import FRAME
from tandem.errors import Unavailable

log = logging.getLogger(__name__)

_MODULE = "services.retriever.ingest.worker"
_MAX_DEPTH = 9  # of headings
_UNSOUND = ("MEMORY", "CRASHED")
_DOCUMENTS_PER_PROCESS = 500  # what a library leaks does not add up
# An answer holds the text and its chunks; JSON escapes up to six bytes a character.
_BYTES_PER_CHARACTER = 8


class ParserPool:
    """Parses in processes of their own, each under a time and a memory limit."""

    def __init__(
        self, *, workers: int, seconds: float, memory_mib: int, chunk_characters: int, max_characters: int
    ) -> None:
        self._seconds = seconds
        self._memory_mib = memory_mib
        self._request = {"limit": chunk_characters, "max_characters": max_characters}
        self._max_characters = max_characters
        self._max_answer = max_characters * _BYTES_PER_CHARACTER + 1_000_000
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers = [_Worker(memory_mib=memory_mib, cpu_seconds=math.ceil(seconds)) for _ in range(workers)]
        for worker in self._workers:
            self._free.put_nowait(worker)

    async def parse(self, data: bytes, media_type: str) -> ParsedDocument:
        """Returns text and chunks; raises Unreadable."""
        worker = await self._free.get()
        try:
            head = json.dumps({**self._request, "media_type": media_type}).encode() + b"\n"
            return await self._ask(worker, head + data)
        finally:
            self._free.put_nowait(worker)

    async def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            await worker.end()

    async def _ask(self, worker: "_Worker", body: bytes) -> ParsedDocument:
        sound = False
        try:
            await worker.begin()
            async with asyncio.timeout(self._seconds):
                answer = await worker.exchange(body, max_answer=self._max_answer)
            # A long answer takes a while to check: the event loop goes on meanwhile.
            parsed = await asyncio.to_thread(checked, answer, max_characters=self._max_characters)
            sound = True
            return parsed
        except Unreadable as error:
            sound = error.reason not in _UNSOUND
            raise
        except TimeoutError:
            raise refusal("TIMEOUT", f"reading the document takes more than {self._seconds:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            log.warning("parsing process died")
            raise refusal("CRASHED", "reading the document crashed the parser") from None
        finally:
            # A process whose answer nobody waited for, because the caller left or time was up, is of no more use, nor
            # one that has run out of memory or does not keep to the form of an answer.
            if not sound or worker.served >= _DOCUMENTS_PER_PROCESS:
                await worker.end()


class _Worker:
    """Is one process, started when it is first needed and again after it has ended."""

    def __init__(self, *, memory_mib: int, cpu_seconds: int) -> None:
        self._arguments = (str(memory_mib), str(cpu_seconds))
        self._process: Process | None = None
        self.served = 0

    async def begin(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        await self.end()
        # Nothing of this process's environment goes along: it may hold secrets.
        env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-m", _MODULE, *self._arguments,
                stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=env, limit=1 << 20,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"cannot start a parsing process: {error.strerror}", retry_after_s=1.0) from error
        self.served = 0

    async def exchange(self, body: bytes, *, max_answer: int) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ConnectionError("the parsing process is not running")
        self.served += 1
        process.stdin.write(FRAME.pack(len(body)))
        process.stdin.write(body)
        await process.stdin.drain()
        (size,) = FRAME.unpack(await process.stdout.readexactly(FRAME.size))
        if size > max_answer:
            raise refusal("CRASHED", "the parser gave an answer beyond all limits")
        return await process.stdout.readexactly(size)

    async def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def checked(answer: bytes, *, max_characters: int) -> ParsedDocument:
    """Returns what a worker answered; trusts nothing of it, for the document may have taken the worker over."""
    try:
        row: dict[str, Any] = json.loads(answer)
        if "reason" in row:
            raise Unreadable(str(row["reason"])[:64], str(row["message"])[:512])
        text, title = str(row["text"]), str(row["title"])[:512]
        text.encode(), title.encode()  # refuses lone surrogates
        chunks = tuple(_chunk(chunk) for chunk in row["chunks"])
        blocks = load_outline(str(row["outline"]), length=len(text))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refusal("CRASHED", "the parser gave an answer that is none") from None
    at = 0
    for chunk in chunks:
        if not at <= chunk.start < chunk.end <= len(text):
            raise refusal("CRASHED", "the parser gave chunks outside of the text")
        at = chunk.end
    if not chunks or len(text) > max_characters:
        raise refusal("CRASHED", "the parser gave an answer beyond its limits")
    return ParsedDocument(text=text, chunks=chunks, title=title, blocks=blocks)


def _chunk(row: list[Any]) -> Chunk:
    start, end, headings, page, head = row
    if head is not None and not 0 <= int(head[0]) < int(head[1]) < int(start):
        raise ValueError("table head")
    if page is not None and not 0 < page < 2**31:
        raise ValueError("page")
    path = tuple(str(heading)[:MAX_HEADING] for heading in headings[:_MAX_DEPTH])
    "".join(path).encode()
    table_head = None if head is None else (int(head[0]), int(head[1]))
    return Chunk(start=int(start), end=int(end), headings=path, page=page, table_head=table_head)
