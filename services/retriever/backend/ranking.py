"""Searches Milvus Lite from the event loop.

pymilvus' blocking client needs a thread, and its asynchronous one shares connections by loop and adds tasks and tries.
"""

import asyncio
import time
from typing import Any

import grpc

from services.retriever.backend.refusals import down

_SEARCH = "/milvus.proto.milvus.MilvusService/Search"


class LiteRanking:
    """Is a channel to Milvus Lite; requests and answers are made and read by pymilvus' own functions."""

    def __init__(self, uri: str, *, concurrency: int) -> None:
        from pymilvus.grpc_gen import milvus_pb2

        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(uri, options=options)
        self._ask = self._channel.unary_unary(
            _SEARCH,
            request_serializer=milvus_pb2.SearchRequest.SerializeToString,
            response_deserializer=milvus_pb2.SearchResults.FromString,
        )
        self._room = asyncio.Semaphore(concurrency)
        self._closed = False

    async def close(self) -> None:
        """Ends what is under way, which is Unavailable then."""
        self._closed = True
        await self._channel.close()

    async def search(self, name: str, *, filter: str, deadline: float, **options: Any) -> list[Any]:
        """Returns the hits of one query like pymilvus' client, and raises what it does; the deadline is monotonic."""
        from pymilvus.client.prepare import Prepare
        from pymilvus.client.search_result import SearchResult
        from pymilvus.client.utils import check_status

        request = Prepare.search_requests_with_expr(collection_name=name, param={}, expr=filter, **options)
        async with self._room:
            left = deadline - time.monotonic()
            if self._closed or left <= 0:
                raise down()
            try:
                answer = await self._ask(request, timeout=left)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._closed and not (task and task.cancelling()):
                    raise down() from None
                raise
        check_status(answer.status)
        return list(SearchResult(answer.results)[0])
