"""Log lines, spans and the metrics endpoint."""

import json
import logging
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter

from tandem import telemetry
from tandem.config import ServerConfig
from tandem.telemetry import LOG_FIELDS, JsonFormatter, RpcMetrics, Telemetry, TextFormatter


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "tandem.x", "levelname": "INFO", "levelno": 20, "msg": message})
    vars(made).update(more)
    return made


def failing(secret: str) -> logging.LogRecord:
    try:
        try:
            raise KeyError(secret)
        except KeyError as cause:
            raise ValueError(f"cannot parse {secret}") from cause
    except ValueError:
        return record("unhandled failure", exc_info=sys.exc_info())


def test_a_line_is_one_json_object_with_its_fields() -> None:
    row = json.loads(JsonFormatter("router").format(record("document indexed\nsecond line", chunks=3)))
    assert row["message"] == "document indexed\nsecond line"
    assert (row["service"], row["level"], row["logger"], row["chunks"]) == ("router", "info", "tandem.x", 3)
    assert row["time"].endswith("+00:00")
    assert {key for key in row if key != "chunks"} <= set(LOG_FIELDS)


def test_extras_cannot_pose_as_the_line_itself() -> None:
    row = json.loads(JsonFormatter("router").format(record("m", service="evil", level="error", time="never")))
    assert (row["service"], row["level"]) == ("router", "info")
    assert row["time"] != "never"


def test_a_line_holds_its_trace() -> None:
    made = Telemetry("x")
    with made.tracer.start_as_current_span("work") as span:
        row = json.loads(JsonFormatter("x").format(record("m")))
    assert row["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert row["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in json.loads(JsonFormatter("x").format(record("m")))


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, object(), "\ud800", b"\xff", "\u2028\x00"])
def test_any_extra_makes_a_line(value: object) -> None:
    line = JsonFormatter("x").format(record("m", odd=value))
    assert "\n" not in line
    assert "odd" in json.loads(line)


@pytest.mark.parametrize("formatter", [JsonFormatter("x"), TextFormatter()], ids=["json", "text"])
def test_a_traceback_shows_where_and_not_what(formatter: logging.Formatter) -> None:
    line = formatter.format(failing("the claimant's illness"))
    assert "ValueError" in line
    assert "KeyError" in line
    assert "test_tandem_telemetry.py" in line
    assert "illness" not in line


@pytest.fixture
def fresh_root() -> Iterator[None]:
    """Lets setup replace the root logger's handlers, and puts them back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("fresh_root")
def test_setup_writes_lines_of_the_asked_level(capsys: pytest.CaptureFixture[str]) -> None:
    made = telemetry.setup("generator", ServerConfig(log_level="warning"))
    logging.getLogger("tandem.y").info("quiet")
    logging.getLogger("tandem.y").warning("loud", extra={"free": 2})
    made.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["free"] == 2


@pytest.mark.usefixtures("fresh_root")
def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    made = telemetry.setup("generator", ServerConfig(log_format="text"))
    logging.getLogger("tandem.y").info("ready", extra={"port": 1})
    made.close()
    assert capsys.readouterr().err.rstrip().endswith("info    ready port=1")


@pytest.mark.usefixtures("fresh_root")
def test_setup_exports_spans() -> None:
    exporter = InMemorySpanExporter()
    made = telemetry.setup("router", ServerConfig(), exporter=exporter)
    with made.tracer.start_as_current_span("answer"):
        pass
    made.provider.force_flush()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.resource.attributes["service.name"]) == ("answer", "tandem-router")
    made.close()


def test_metrics_are_served_and_the_port_is_freed() -> None:
    made = Telemetry("x", provider=telemetry.TracerProvider(shutdown_on_exit=False))
    made.provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    Counter("tandem_x_things_total", "Things.", registry=made.registry).inc()
    port = made.serve_metrics("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        assert b"tandem_x_things_total 1.0" in reply.read()
    made.close()
    again = Telemetry("x")
    assert again.serve_metrics(f"127.0.0.1:{port}") == port
    again.close()


def test_rpc_metrics_keep_their_names() -> None:
    registry = CollectorRegistry()
    RpcMetrics(registry)
    assert {family.name for family in registry.collect()} == {
        "rpc_server_call_duration_seconds", "tandem_rpc_calls_in_flight", "tandem_rpc_calls_refused",
    }  # fmt: skip
