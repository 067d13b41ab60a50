"""Writes docs/telemetry.md from the declarations in the code: every metric, span and log field that Tandem emits.

    python -m deploy.observability.telemetry            writes the page
    python -m deploy.observability.telemetry --check    fails when the page and the code differ

Dashboards, alerts and their tests take the names that may be used from `series`.
"""

import argparse
import ast
import difflib
import importlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from tandem import telemetry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "telemetry.md"
SERVICES = ("router", "embedder", "retriever", "generator")
# What Prometheus itself says about a scraped process.
FOREIGN_SERIES = frozenset({"up"})
_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
_LOGGERS = frozenset({"log", "logger", "_log", "_logger", "LOG"})


@dataclass(frozen=True)
class Metric:
    """Is one declared metric; name is as scraped, for a histogram without its suffixes."""

    name: str
    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]
    help: str

    @property
    def series(self) -> frozenset[str]:
        """The names of the series that the metric makes."""
        if self.kind == "histogram":
            return frozenset(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
        if self.kind == "summary":
            return frozenset(f"{self.name}_{suffix}" for suffix in ("sum", "count"))
        return frozenset({self.name})


@dataclass(frozen=True, order=True)
class LogLine:
    """Is one place that writes a log line."""

    module: str
    message: str
    level: str
    fields: tuple[str, ...]


class _Recorder(CollectorRegistry):
    """Is a registry that remembers its collectors in the order of their declaration."""

    def __init__(self) -> None:
        super().__init__()
        self.declared: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.declared.append(collector)


def rpc_metrics() -> list[Metric]:
    """Returns the metrics of the server that all services share."""
    registry = _Recorder()
    telemetry.RpcMetrics(registry)
    return [_metric(collector) for collector in registry.declared]


def metrics(service: str) -> list[Metric]:
    """Returns the metrics that a service declares; raises ModuleNotFoundError when it has no metrics module."""
    registry = _Recorder()
    getattr(importlib.import_module(f"services.{service}.metrics"), f"{service.capitalize()}Metrics")(registry)
    return [_metric(collector) for collector in registry.declared]


def spans(service: str) -> Mapping[str, str]:
    """Returns the spans that a service opens itself, with their meanings."""
    found: Mapping[str, str] = importlib.import_module(f"services.{service}.metrics").SPANS
    return found


def series() -> frozenset[str]:
    """Returns the name of every series that Prometheus can hold about Tandem."""
    every = [*rpc_metrics(), *(metric for service in SERVICES for metric in metrics(service))]
    return FOREIGN_SERIES.union(*(metric.series for metric in every))


def log_lines(folder: Path) -> list[LogLine]:
    """Returns the places below a folder of the repository that write a log line, found in their syntax trees."""
    found: set[LogLine] = set()
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found.update(_log_lines(module, ast.parse(path.read_text())))
    return sorted(found)


def _metric(collector: Collector) -> Metric:
    (family,) = collector.describe()  # type: ignore[attr-defined]
    kind = str(family.type)
    # prometheus_client has no public way to ask a collector for its labels and buckets.
    labels = tuple(getattr(collector, "_labelnames", ()))
    buckets = tuple(getattr(collector, "_upper_bounds", ()))
    name = f"{family.name}_total" if kind == "counter" else str(family.name)
    return Metric(name=name, kind=kind, labels=labels, buckets=buckets, help=str(family.documentation))


def _log_lines(module: str, tree: ast.AST) -> Iterator[LogLine]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if name not in _LOGGERS or node.func.attr not in _LEVELS:
            continue
        message = node.args[0]
        text = message.value if isinstance(message, ast.Constant) else f"({ast.unparse(message)})"
        level = "error" if node.func.attr in ("exception", "critical") else node.func.attr
        yield LogLine(module=module, message=str(text), level=level, fields=tuple(_extras(node)))


def _extras(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg != "extra":
            continue
        for node in ast.walk(keyword.value):
            if isinstance(node, ast.Dict):
                yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def _number(value: float) -> str:
    return "+Inf" if math.isinf(value) else f"{value:g}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    escaped = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    if not escaped:
        return []
    lines = [head, tuple("---" for _ in head), *escaped]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _metric_rows(found: Iterable[Metric]) -> list[str]:
    rows = [(f"`{m.name}`", m.kind, _code(m.labels), " ".join(map(_number, m.buckets)), m.help) for m in found]
    return _table(("metric", "type", "labels", "buckets", "meaning"), rows)


def _span_rows(found: Mapping[str, str]) -> list[str]:
    return _table(("span", "meaning"), [(f"`{name}`", meaning) for name, meaning in found.items()])


def _log_rows(found: Iterable[LogLine]) -> list[str]:
    rows = [(line.message, line.level, _code(line.fields), f"`{line.module}`") for line in found]
    return _table(("message", "level", "fields", "module"), rows)


def page() -> str:
    """Returns the page."""
    lines = [
        "<!-- Generated by deploy/observability/telemetry.py; change the declarations in the code, not this page. -->",
        "",
        "# Telemetry",
        "",
        "Metrics are served at `/metrics` of each service's `<SERVICE>_METRICS_LISTEN`, traces go to "
        "`<SERVICE>_OTLP_ENDPOINT`, logs to standard error. No metric, span or log line holds the text of a question, "
        "an answer or a passage; labels hold no ids. Durations are in seconds.",
        "",
        "## Every service",
        "",
        *_metric_rows(rpc_metrics()),
        "Beside these, the Prometheus client adds `process_*` and `python_info`.",
        "",
        *_span_rows(telemetry.SPANS),
        "Each log line is one JSON object with these fields and those of its message:",
        "",
        *_table(("field", "meaning"), [(f"`{name}`", text) for name, text in telemetry.LOG_FIELDS.items()]),
        *_log_rows(log_lines(ROOT / "tandem")),
    ]
    for service in SERVICES:
        lines += [f"## {service.capitalize()}", "", *_metric_rows(metrics(service)), *_span_rows(spans(service))]
        lines += _log_rows(log_lines(ROOT / "services" / service))
    return "\n".join(lines).rstrip() + "\n"


def reconcile(path: Path, wanted: str, *, check: bool) -> int:
    """Writes a generated file, or with check only compares it; returns the exit status and prints the difference."""
    present = path.read_text() if path.exists() else ""
    if present == wanted:
        return 0
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted)
        return 0
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    diff = difflib.unified_diff(present.splitlines(), wanted.splitlines(), name, "generated", lineterm="", n=1)
    print("\n".join(diff), file=sys.stderr)
    print(f"{name} is not what the code says: run the generator without --check", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes docs/telemetry.md from the declarations in the code.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    return reconcile(PAGE, page(), check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main())
