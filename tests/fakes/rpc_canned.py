"""All five services, each RPC giving the answers it was loaded with and keeping what it was asked."""

from collections import defaultdict
from collections.abc import AsyncIterator
from importlib import import_module

from google.protobuf.message import Message

from tandem.rpc.server import App, Service

NAMES = ("Embedder", "Retriever", "Generator", "Router", "Audit")


class Canned:
    """Holds answers by method name; a list is a stream's events or a method's answers in turn, an error is raised."""

    def __init__(self, **answers: Message | Exception | list[Message | Exception]) -> None:
        self._answers = answers
        self.asked: dict[str, list[Message]] = defaultdict(list)

    def app(self) -> App:
        """Returns an app of all services."""
        return App([self._service(name) for name in NAMES])

    def _service(self, name: str) -> Service:
        stub = f"tandem.v1.{name.lower()}_service_pb2"
        methods = import_module(stub).DESCRIPTOR.services_by_name[f"{name}Service"].methods
        generated = import_module(f"{stub}_grpc")
        made = {
            method.name: self._streaming(method.name) if method.server_streaming else self._unary(method.name)
            for method in methods
        }
        servicer = type(f"Canned{name}", (getattr(generated, f"{name}ServiceServicer"),), made)()
        add = getattr(generated, f"add_{name}ServiceServicer_to_server")
        return Service(f"tandem.v1.{name}Service", lambda server: add(servicer, server))

    def _unary(self, method: str):
        async def answer(servicer, request, context):
            await self._keep(method, request)
            given = self._answers[method]
            given = given.pop(0) if isinstance(given, list) else given
            if isinstance(given, Exception):
                raise given
            return given

        return answer

    def _streaming(self, method: str):
        async def answer(servicer, request, context) -> AsyncIterator[Message]:
            await self._keep(method, request)
            given = self._answers[method]
            for item in given if isinstance(given, list) else [given]:
                if isinstance(item, Exception):
                    raise item
                yield item

        return answer

    async def _keep(self, method: str, request: Message | AsyncIterator[Message]) -> None:
        if hasattr(request, "__aiter__"):
            self.asked[method] += [item async for item in request]
        else:
            self.asked[method].append(request)
