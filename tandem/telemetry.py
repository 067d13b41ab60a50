"""Logs, traces and metrics, set up once for each process.

What may be in them is decided here and in each service's metrics module: names, counts, durations, ids of answers and
documents in logs; never the text of a question, an answer or a passage.
"""

import json
import logging
import sys
import threading
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIServer

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from tandem.config import ServerConfig, otlp_endpoint

SPANS = {
    "<package>.<Service>/<Method>": "One call, on the server's side. Attributes rpc.system.name, rpc.method, "
    "rpc.response.status_code.",
}
LOG_FIELDS = {
    "time": "When, in UTC, RFC 3339 with microseconds.",
    "level": "debug, info, warning or error.",
    "service": "The service that wrote the line.",
    "logger": "The module that wrote the line.",
    "message": "What happened; a constant text.",
    "trace_id": "The trace that the line belongs to, where there is one.",
    "span_id": "The span that the line belongs to, where there is one.",
    "exception": "The traceback, where there is one: types and places, for what exceptions say may quote a caller.",
}
# From 1 ms to 60 s: a no-op call and a long generation both fall into the middle of the range.
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class RpcMetrics:
    """Counts and times every call of a server, whatever the service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "rpc_server_call_duration_seconds",
            "Time from the arrival of a call to its end, by method and status code.",
            ["rpc_method", "rpc_response_status_code"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("tandem_rpc_calls_in_flight", "Calls being served.", registry=registry)
        self.refused = Counter(
            "tandem_rpc_calls_refused_total",
            "Calls refused at the door, by reason: not_ready, draining, too_many.",
            ["reason"],
            registry=registry,
        )


@dataclass
class Telemetry:
    """Is what a service records with: its metrics registry and its tracer."""

    service: str
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    provider: TracerProvider = field(default_factory=TracerProvider)
    _server: tuple[WSGIServer, threading.Thread] | None = None

    @property
    def tracer(self) -> trace.Tracer:
        """The tracer of this process."""
        return self.provider.get_tracer("tandem")

    def serve_metrics(self, listen: str) -> int:
        """Starts the HTTP endpoint /metrics and returns its port."""
        host, _, port = listen.rpartition(":")
        self._server = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        return self._server[0].server_port

    def close(self) -> None:
        """Sends what is pending and frees the port."""
        if self._server is not None:
            self._server[0].shutdown()
            self._server[0].server_close()
            self._server[1].join()
            self._server = None
        self.provider.shutdown()


def setup(service: str, config: ServerConfig, *, exporter: SpanExporter | None = None) -> Telemetry:
    """Sets up logging, tracing and the metrics registry of this process."""
    _setup_logging(service, config)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    endpoint = config.otlp_endpoint or otlp_endpoint()
    if exporter is None and endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    # Where nobody receives spans they carry their ids into the logs and record nothing, which takes time.
    sampler = ALWAYS_OFF if exporter is None else None
    resource = Resource.create({"service.name": f"tandem-{service}"})
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(service=service, registry=registry, provider=provider)


class JsonFormatter(logging.Formatter):
    """Renders a record as one JSON object with the fields of LOG_FIELDS and the record's extras."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        row |= _trace_ids()
        row |= {key: value for key, value in _extras(record).items() if key not in row}
        if record.exc_info and record.exc_info[1]:
            row["exception"] = _places(record.exc_info[1])
        return json.dumps(row, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Renders a record for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()} {extras}".rstrip()
        return f"{line}\n{_places(record.exc_info[1])}" if record.exc_info and record.exc_info[1] else line


def _setup_logging(service: str, config: ServerConfig) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if config.log_format == "json" else TextFormatter())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _trace_ids() -> dict[str, str]:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _places(error: BaseException) -> str:
    """Returns the tracebacks of an exception and its causes without their messages."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.insert(0, link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join("".join([*traceback.format_tb(item.__traceback__), type(item).__name__]) for item in chain)
