"""A server that speaks just enough HTTP to say what a test wants it to: an OpenAI-compatible API without a model."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


def models(owner: str = "vllm", **card: Any) -> dict[str, Any]:
    """Returns a list of one model, as a server of that kind writes it."""
    return {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": owner, **card}]}


def word(text: str, *, logprob: float = -0.5, token_id: int = 7, finish: str | None = None) -> dict[str, Any]:
    """Returns one event of a completion with one token, as llama.cpp writes it."""
    top = [{"id": token_id, "token": text, "logprob": logprob}, {"id": 9, "token": "other", "logprob": -3.0}]
    entry = {"id": token_id, "token": text, "logprob": logprob, "top_logprobs": top}
    return {"choices": [{"text": text, "index": 0, "logprobs": {"content": [entry]}, "finish_reason": finish}]}


def end(reason: str = "stop", *, input_tokens: int = 3, output_tokens: int = 2) -> dict[str, Any]:
    """Returns the last event of a completion."""
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return {"choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": reason}], "usage": usage}


@dataclass
class Answer:
    """Is what the server does with one request: a status with a JSON body, or a stream of events.

    An event is sent as JSON, a string as it is. With `hold` the stream stays
    open after its events until the client leaves or `proceed` is set, and
    ends then; without `done` it ends before its last event.
    """

    events: Sequence[Mapping[str, Any] | str] = ()
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: bool = False
    done: bool = True


@dataclass(frozen=True)
class Request:
    """Is what a client sent."""

    path: str
    headers: Mapping[str, str]
    body: Any


class OpenAiServer:
    """Answers GET /v1/models with `models`, and each POST with the next of `answers`."""

    def __init__(self, listed: Any = None) -> None:
        self.models = Answer(body=models() if listed is None else listed)
        self.answers: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.proceed = asyncio.Event()
        self.left = asyncio.Event()
        """Set when a client closed its connection during a stream."""
        self.num_open = 0
        """Requests that are being answered."""
        self.max_open = 0
        self._changed = asyncio.Event()
        self.url = ""

    async def reached(self, num_requests: int) -> None:
        """Waits until so many requests have come, the list of models among them."""
        while len(self.requests) < num_requests:
            self._changed.clear()
            await self._changed.wait()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection; each answer closes it."""
        try:
            request = await _read(reader)
            if request is None:
                return
            self.requests.append(request)
            self._changed.set()
            answer = self.models if request.path == "/v1/models" else self.answers.popleft()
            self.num_open += 1
            self.max_open = max(self.max_open, self.num_open)
            try:
                await self._answer(answer, reader, writer)
            finally:
                self.num_open -= 1
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = answer.body is None
        content = b"" if stream else json.dumps(answer.body).encode()
        lines = [f"HTTP/1.1 {answer.status} X", "connection: close"]
        lines.append("content-type: text/event-stream" if stream else f"content-length: {len(content)}")
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        for event in answer.events:
            text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
            writer.write(text.encode())
        await writer.drain()
        if answer.hold:
            gone = asyncio.ensure_future(reader.read())
            proceed = asyncio.ensure_future(self.proceed.wait())
            await asyncio.wait({gone, proceed}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.left.set()
            for task in (gone, proceed):
                task.cancel()
        if stream and answer.done:
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode() if not reader.at_eof() else ""
    if not head:
        return None
    first, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split()[1], headers, json.loads(content) if content else None)


@asynccontextmanager
async def serving(server: OpenAiServer) -> AsyncIterator[OpenAiServer]:
    """Serves on a free loopback port; `server.url` is its base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.handle(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        server.proceed.set()
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
