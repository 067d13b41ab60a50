"""The process in which documents are parsed: ``python -m services.retriever.ingest.worker MEMORY_MIB CPU_SECONDS``.

It reads requests from standard input and writes answers to standard output, each a frame of four bytes length and its
body: of a request one line of JSON and the document's bytes, of an answer JSON. It ends with its standard input. It
holds no secret, and its answers are checked by the service, so that a parser that is taken over gains little.
"""

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from services.retriever.chunking import MAX_HEADING, cut
from services.retriever.domain import Kind, Unreadable, dump_outline
from services.retriever.ingest.parsers import extract
from services.retriever.ingest.parsers.canonical import Extracted
from services.retriever.ingest.reasons import refusal

FRAME = struct.Struct(">I")
_MAX_BLOCKS = 100_000
_XML_NO_MEMORY = 2


def main(memory_mib: int, cpu_seconds: int) -> int:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    _restrict(memory_mib)
    requests = sys.stdin.buffer
    while (body := _read(requests)) is not None:
        _allow_cpu(cpu_seconds)
        try:
            answer, sound = answer_to(body), True
        except MemoryError:
            answer, sound = _refused(refusal("MEMORY", "reading the document takes too much memory")), False
        del body
        data = json.dumps(answer).encode()
        answers.write(FRAME.pack(len(data)) + data)
        answers.flush()
        if not sound:
            return 1  # the heap may be in pieces: a fresh process takes over
    return 0


def answer_to(body: bytes) -> dict[str, Any]:
    """Returns the answer to one request: text, title and chunks, or reason and message."""
    line, _, data = body.partition(b"\n")
    request = json.loads(line)
    most = request["max_characters"]
    try:
        extracted = extract(data, request["media_type"], max_characters=most)
        return _answer(extracted, limit=request["limit"], max_characters=most)
    except Unreadable as error:
        return _refused(error)
    except Exception as error:  # noqa: BLE001 -- the task root: parser libraries raise what they like on hostile bytes
        causes = list(_causes(error))
        if any(isinstance(cause, MemoryError) or _of_memory(cause) for cause in causes):
            raise MemoryError from None
        if any(isinstance(cause, RecursionError) for cause in causes):
            return _refused(refusal("TOO_DEEP", "the document is nested too deeply"))
        return _refused(refusal("MALFORMED", f"the document cannot be read ({type(error).__name__})"))


def _of_memory(error: BaseException) -> bool:
    """Tells whether libxml2 ran out of memory, which lxml reports as bad syntax."""
    return type(error).__name__ == "XMLSyntaxError" and getattr(error, "code", 0) == _XML_NO_MEMORY


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that it came of: libraries wrap what happens to them."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer(extracted: Extracted, *, limit: int, max_characters: int) -> dict[str, Any]:
    text = extracted.text
    if not text.strip():
        raise refusal("NO_TEXT", "the document holds no text")
    if len(text) > max_characters:
        raise refusal("TOO_LARGE", f"the document holds more than {max_characters} characters of text")
    if len(extracted.blocks) > _MAX_BLOCKS:
        raise refusal("TOO_MANY_PARTS", f"the document has more than {_MAX_BLOCKS} headings, paragraphs and tables")
    blocks = [replace(block, title=block.title[:MAX_HEADING]) for block in extracted.blocks]
    chunks = cut(text, blocks, limit=limit)
    title = next((block.title for block in extracted.blocks if block.kind is Kind.HEADING and block.title), "")
    return {
        "text": text,
        "title": title[:512],
        "chunks": [[c.start, c.end, c.headings, c.page, c.table_head] for c in chunks],
        "outline": dump_outline(blocks),
    }


def _refused(error: Unreadable) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message}


def _allow_cpu(seconds: int) -> None:
    """Lets the process compute for so long from now on: it ends by itself even when nobody is left to end it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _restrict(memory_mib: int) -> None:
    size = memory_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    (size,) = FRAME.unpack(head)
    body = stream.read(size)
    return body if len(body) == size else None


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
