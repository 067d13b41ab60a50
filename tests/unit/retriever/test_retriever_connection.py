"""Calls that nobody waits for any more."""

import asyncio
import contextlib
import gc
import threading
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from services.retriever.backend import connection as module
from services.retriever.backend.connection import MilvusConnection
from services.retriever.config import RetrieverConfig
from services.retriever.metrics import RetrieverMetrics


class Held:
    """Is a call that begins and then fails when it is told to."""

    def __init__(self) -> None:
        self.begun, self.ending = threading.Event(), threading.Event()

    def __call__(self, client: Any, timeout: float) -> None:
        self.begun.set()
        self.ending.wait(10)
        raise ValueError("Cannot invoke RPC on closed channel!")


def test_a_call_that_fails_after_its_caller_has_left_says_nothing() -> None:
    loop, said, held = asyncio.new_event_loop(), list[str](), Held()
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))

    async def leave() -> module._Session:
        connection = MilvusConnection(RetrieverConfig(), metrics=RetrieverMetrics(CollectorRegistry()))
        session = connection._session = module._Session(SimpleNamespace(close=lambda: None), threads=1)
        writing = asyncio.create_task(connection.call(held))
        await asyncio.to_thread(held.begun.wait, 10)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        return session

    session = loop.run_until_complete(leave())
    loop.run_until_complete(loop.shutdown_default_executor())
    held.ending.set()
    session.executor.shutdown()
    loop.call_soon(loop.stop)  # the loop ends in the very turn in which it hears of the failure
    loop.run_forever()
    loop.close()
    del session
    gc.collect()
    assert said == []
