"""Sends a slow call once more, off unless asked for: J. Dean and L. A. Barroso, The Tail at Scale, CACM 56(2), 2013."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import grpc

from services.router.metrics import RouterMetrics

T = TypeVar("T")
_SHARE = 0.1
_MOST = 10.0


class Hedge:
    """Makes a second call when the answer to the first takes longer than a time; the first answer counts.

    The other call is cancelled. Second calls are at most a tenth of the calls, or ten in a row after a hundred without:
    where everything is slow they would make it slower. Only for calls that may be made twice.
    """

    def __init__(self, component: str, *, after_s: float, metrics: RouterMetrics) -> None:
        self._after_s = after_s
        self._hedges = metrics.hedges.labels(component)
        self._allowed = 0.0

    async def first(self, ask: Callable[[float], Awaitable[T]], timeout_s: float) -> T:
        """Returns what `ask`, given the seconds it has, answers first; raises what it fails with."""
        if not 0 < self._after_s < timeout_s:
            return await ask(timeout_s)
        self._allowed = min(_MOST, self._allowed + _SHARE)
        calls = [asyncio.ensure_future(ask(timeout_s))]
        try:
            done, _ = await asyncio.wait(calls, timeout=self._after_s)
            if not done and self._allowed >= 1:
                self._allowed -= 1
                self._hedges.inc()
                calls.append(asyncio.ensure_future(ask(timeout_s - self._after_s)))
            return await _first_answer(calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


async def _first_answer(calls: Collection[asyncio.Future[T]]) -> T:
    """Waits for the other call only where the peer's process cannot be reached."""
    waiting = set(calls)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        ended = min(done, key=_unavailable)
        if not (waiting and _unavailable(ended)):
            return ended.result()


def _unavailable(call: asyncio.Future[Any]) -> bool:
    error = call.exception()
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
