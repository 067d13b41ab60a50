"""Keeps a connection to Milvus: bounded calls in threads, and Milvus Lite started again when it dies.

Milvus Lite is searched from the event loop: a thread adds half a millisecond to a call of one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from services.retriever.backend.access import Access
from services.retriever.backend.lite import LiteServer
from services.retriever.backend.ranking import LiteRanking
from services.retriever.backend.refusals import down, translated
from services.retriever.backend.visibility import STRONG, Consistent
from services.retriever.config import RetrieverConfig
from services.retriever.metrics import RetrieverMetrics
from tandem.errors import DeadlineExceeded, Unavailable
from tandem.rpc import call

log = logging.getLogger(__name__)
T = TypeVar("T")

_START_WAIT_S = 60.0
_CONNECT_S = 10.0
# A call that its thread has not ended by then is left to itself.
_OVERTIME_S = 1.0
_RECONNECT_MS = 1_000
_PAUSES_S = (0.0, 0.2, 1.0, 5.0)


@dataclass(frozen=True)
class _Failed:
    """Carries what a call has raised; as a future's exception it would be printed wherever nobody waits any more."""

    error: Exception


class _Session:
    """Is one client and the threads that call it; `lost` is done when its engine has died."""

    def __init__(self, client: Any, *, threads: int, ranking: LiteRanking | None = None) -> None:
        self.client = client
        self.ranking = ranking
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="milvus")
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        # Calls that hang on a dead engine end by their own timeouts.
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.client.close()
        if self.ranking is not None:
            await self.ranking.close()


class MilvusConnection:
    """Calls Milvus. Every call is bounded in time; those that an engine's death cut off are made once more."""

    def __init__(self, config: RetrieverConfig, *, metrics: RetrieverMetrics) -> None:
        self._access = Access.of(config)
        self._consistency = config.consistency
        self._timeout_s = config.store_timeout_seconds
        self._concurrency = config.store_concurrency
        self._metrics = metrics
        self._lite = LiteServer(Path(self._access.uri)) if self._access.is_file else None
        self._session: _Session | None = None
        self._changed = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None
        self._on_open: Callable[[Any], None] | None = None

    @property
    def embedded(self) -> bool:
        """Tells whether Milvus Lite is used."""
        return self._lite is not None

    @property
    def engine_pid(self) -> int | None:
        """The process id of Milvus Lite."""
        return self._lite.pid if self._lite else None

    async def open(self, on_open: Callable[[Any], None]) -> None:
        """Connects; on_open(client) runs in a thread after each connecting, before any call."""
        self._on_open = on_open
        await self._connect()
        if self._lite is not None:
            self._keeper = asyncio.create_task(self._keep(self._lite))

    async def close(self) -> None:
        """Disconnects and ends Milvus Lite."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._lite is not None:
            await self._lite.stop()

    async def call(self, do: Callable[[Any, float], T]) -> T:
        """Runs do(client, timeout in seconds) in a thread; do must be safe to run twice.

        Raises Unavailable when Milvus does not answer in time, DeadlineExceeded when the caller's time is up first.
        """
        deadline = self._deadline()
        for _ in range(2):
            session = await self._current(deadline)
            answer: asyncio.Future[T | _Failed] = asyncio.get_running_loop().run_in_executor(
                session.executor, _outcome, do, self._view(session.client), deadline
            )
            either: set[asyncio.Future[Any]] = {answer, session.lost}
            patience = max(0.0, deadline - time.monotonic()) + _OVERTIME_S
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not answer.cancelled():
                outcome = answer.result()
                if not isinstance(outcome, _Failed):
                    return outcome
                error = outcome.error
                if not await self._may_be_repeated(session, error):
                    raise error
            else:
                answer.cancel()
                if not session.lost.done():
                    break
        raise down()

    async def search(self, name: str, excuse: Callable[[Exception], T], **options: Any) -> list[Any] | T:
        """Ranks rows; `excuse` makes an answer of what pymilvus raises, or raises it again. Otherwise like call."""
        from pymilvus.exceptions import MilvusException

        def do(client: Any, timeout: float) -> list[Any] | T:
            try:
                return list(client.search(name, timeout=timeout, **options)[0])
            except MilvusException as error:
                return excuse(error)

        deadline = self._deadline()
        session = await self._current(deadline)
        if session.ranking is None:
            return await self.call(do)
        try:
            with translated(do):
                try:
                    return await session.ranking.search(name, deadline=deadline, **options)
                except MilvusException as error:
                    return excuse(error)
        except Unavailable as error:
            if not await self._may_be_repeated(session, error):
                raise
        return await self.call(do)

    def newest(self, client: Any) -> Any:
        """Returns a client whose reads miss nothing that any replica has written, acknowledged or not."""
        return self._view(client, STRONG)

    def _view(self, client: Any, level: str | None = None) -> Any:
        return client if self.embedded else Consistent(client, level or self._consistency)

    def _deadline(self) -> float:
        left = call.remaining()
        return time.monotonic() + (self._timeout_s if left is None else min(self._timeout_s, left))

    async def _may_be_repeated(self, session: _Session, error: Exception) -> bool:
        """Tells whether a failed call was cut off by the engine's death, which is noticed a moment after.

        Raises DeadlineExceeded where it was not, and the caller's time is up.
        """
        if not isinstance(error, Unavailable):
            return False
        if self._lite is not None:
            await asyncio.wait({session.lost}, timeout=0.5)
            if session.lost.done():
                return True
        left = call.remaining()
        if left is not None and left < 0.02:
            raise DeadlineExceeded("the deadline passed while the vector store was asked") from error
        return False

    async def _current(self, deadline: float) -> _Session:
        if self._session is not None:
            return self._session
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._changed:
                await self._changed.wait_for(lambda: self._session is not None)
        except TimeoutError:
            raise down() from None
        if self._session is None:
            raise down()
        return self._session

    async def _connect(self) -> None:
        loop, ranking = asyncio.get_running_loop(), None
        if self._lite is not None:
            uri = await self._lite.start()
            client = await loop.run_in_executor(None, _lite_client, uri)
            ranking = LiteRanking(uri, concurrency=self._concurrency)
        else:
            client = await loop.run_in_executor(None, _server_client, self._access)
        session = _Session(client, threads=self._concurrency, ranking=ranking)
        try:
            if self._on_open is not None:
                await loop.run_in_executor(session.executor, _opening, self._on_open, self._view(client, STRONG))
        except BaseException:
            await session.close()
            raise
        async with self._changed:
            self._session = session
            self._changed.notify_all()

    async def _keep(self, lite: LiteServer) -> None:
        """Starts the engine again whenever it ends."""
        failures = 0
        while True:
            try:
                if self._session is not None:
                    status = await lite.wait()
                    log.error("Milvus Lite died", extra={"exit_status": status})
                    lost, self._session = self._session, None
                    lost.lost.set_result(None)
                    await lost.close()
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                await lite.stop()
                await self._connect()
            except Exception as error:  # noqa: BLE001 -- a task root: whatever fails, the next try may not
                failures += 1
                log.error("Milvus Lite does not start again", extra={"error": type(error).__name__})
                continue
            failures = 0
            self._metrics.store_restarts.inc()
            log.info("Milvus Lite runs again")


def _lite_client(uri: str) -> Any:
    with grpc.insecure_channel(uri) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_START_WAIT_S)
        except grpc.FutureTimeoutError:
            raise Unavailable("Milvus Lite does not answer on its socket", retry_after_s=5.0) from None
    return _client(uri, timeout=_START_WAIT_S)


def _server_client(access: Access) -> Any:
    access.knock()
    options = {f"grpc.{name}_reconnect_backoff_ms": _RECONNECT_MS for name in ("initial", "min", "max")}
    # A connection of its own: pymilvus shares them by address and token, whatever certificates they were made with.
    client = _client(access.uri, timeout=_CONNECT_S, dedicated=True, grpc_options=options, **access.arguments())
    # gRPC connects again by itself; pymilvus' own way holds a lock over all calls meanwhile.
    client._handler._on_rpc_error = lambda error: False
    return client


def _client(uri: str, *, timeout: float, **options: Any) -> Any:
    from pymilvus import MilvusClient  # takes a second or two: not before it is needed, and not on the event loop
    from pymilvus.exceptions import MilvusException

    # It prints a traceback for each failed call, with what the call said. The import sets the levels, so not before it.
    for name in ("pymilvus", "pymilvus.milvus_client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return MilvusClient(uri=uri, timeout=timeout, **options)
    except (MilvusException, grpc.RpcError) as error:
        raise Unavailable(f"cannot connect to Milvus at {uri}", retry_after_s=5.0) from error


def _opening(on_open: Callable[[Any], None], client: Any) -> None:
    _guarded(lambda client, _: on_open(client), client, time.monotonic() + _START_WAIT_S)


def _outcome(do: Callable[[Any, float], T], client: Any, deadline: float) -> T | _Failed:
    try:
        return _guarded(do, client, deadline)
    except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
        return _Failed(error)


def _guarded(do: Callable[[Any, float], T], client: Any, deadline: float) -> T:
    """Runs in a thread."""
    left = deadline - time.monotonic()
    if left <= 0.001:
        raise down()
    with translated(do):
        answer = do(client, left)
        if isinstance(client, Consistent):
            client.wait_until_visible(lambda: max(0.01, deadline - time.monotonic()))
        return answer
