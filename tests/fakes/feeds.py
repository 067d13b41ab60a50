"""A web server with one feed, which changes as a test likes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Self


class Site:
    """Serves `body` under any path but /moved, which redirects to `location`; with the header X-Stall it never ends."""

    def __init__(self) -> None:
        self.body = b""
        self.status = HTTPStatus.OK
        self.headers: dict[str, str] = {}
        self.location = ""
        self.asked: list[dict[str, str]] = []
        self._port = 0

    def url(self, path: str) -> str:
        """Returns the address of a path."""
        return f"http://127.0.0.1:{self._port}/{path}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Serves until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            self.asked.append({k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)})
            moved = head[0].split()[1] == "/moved"
            status = HTTPStatus.FOUND if moved else self.status
            body = b"" if moved or status is HTTPStatus.NOT_MODIFIED else self.body
            headers = {**self.headers, "Content-Length": str(len(body)), "Connection": "close"}
            if moved:
                headers["Location"] = self.location
            if "X-Stall" in headers:
                headers["Content-Length"] = "1000000"
            lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            await writer.drain()
            if "X-Stall" in headers:
                await reader.read()  # until the client leaves
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
