"""A collector that keeps the spans it is sent."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Seen:
    """Is a span as it arrived; ids are lower-case hexadecimal, parent is empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    text: str


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Implements TraceService; `text` of a span is everything that it carries."""

    def __init__(self) -> None:
        self._spans: list[Seen] = []
        self._changed = threading.Condition()

    def Export(self, request, context):
        with self._changed:
            for resource in request.resource_spans:
                names = {item.key: item.value.string_value for item in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [_seen(names.get("service.name", ""), span) for span in scope.spans]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Seen]:
        """Returns what has arrived so far."""
        with self._changed:
            return list(self._spans)

    def wait_for(self, enough: Callable[[list[Seen]], bool], *, timeout_s: float) -> list[Seen]:
        """Returns what has arrived as soon as it is enough, or when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: enough(self._spans), timeout=timeout_s)
            return list(self._spans)


def _seen(service: str, span) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        text=str(span),
    )


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """Serves a receiver; yields it and its endpoint."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(1.0).wait()
