"""What every client has: a channel, calls with deadlines, pages, and failures as tandem.errors."""

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from tandem.client.requests import translated
from tandem.rpc import channel as channels


class Client:
    """Owns a channel to one service."""

    stub: Callable[[Any], Any]

    def __init__(self, target: str, *, token: str | None = None, timeout: float = channels.DEFAULT_TIMEOUT_S) -> None:
        self._channel = channels.connect_sync(target, token=token, default_timeout_s=timeout)
        self._rpc = type(self).stub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, request: Any, timeout: float | None) -> Any:
        with translated():
            return getattr(self._rpc, method)(request, timeout=timeout)

    def _stream(self, method: str, request: Any, timeout: float | None) -> Iterator[Any]:
        with translated():
            call = getattr(self._rpc, method)(request, timeout=timeout)
            try:
                yield from call
            finally:
                call.cancel()

    def _pages(self, method: str, request: Any, field: str, timeout: float | None) -> Iterator[Any]:
        while True:
            page = self._call(method, request, timeout)
            yield from getattr(page, field)
            request.page_token = page.next_page_token
            if not request.page_token:
                return


class AsyncClient:
    """Owns a channel to one service, for use in an event loop."""

    stub: Callable[[Any], Any]

    def __init__(self, target: str, *, token: str | None = None, timeout: float = channels.DEFAULT_TIMEOUT_S) -> None:
        self._channel = channels.connect(target, token=token, default_timeout_s=timeout)
        self._rpc = type(self).stub(self._channel)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: str, request: Any, timeout: float | None) -> Any:
        with translated():
            return await getattr(self._rpc, method)(request, timeout=timeout)

    async def _stream(self, method: str, request: Any, timeout: float | None) -> AsyncIterator[Any]:
        with translated():
            call = getattr(self._rpc, method)(request, timeout=timeout)
            try:
                async for event in call:
                    yield event
            except grpc.aio.AioRpcError as error:
                # A refusal that arrives while requests are still being sent is raised as a bare INTERNAL; the call
                # itself knows better.
                code, trailers = await call.code(), await call.trailing_metadata()
                raise grpc.aio.AioRpcError(
                    code, error.initial_metadata(), trailers or error.trailing_metadata(), details=await call.details()
                ) from None
            finally:
                call.cancel()

    async def _pages(self, method: str, request: Any, field: str, timeout: float | None) -> AsyncIterator[Any]:
        while True:
            page = await self._call(method, request, timeout)
            for row in getattr(page, field):
                yield row
            request.page_token = page.next_page_token
            if not request.page_token:
                return
