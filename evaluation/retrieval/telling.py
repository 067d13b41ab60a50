"""Tells what was measured: a table in the terminal, a page for people, a file for programs."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from evaluation.retrieval.measuring import Report
from evaluation.retrieval.metrics import METRICS
from tandem.report import write_data, write_page
from tandem.report.plots import bars

PAGE, DATA = "retrieval.html", "retrieval.json"
_LATENCIES = ("p50", "p95", "p99")


def write(report: Report, folder: Path) -> Path:
    """Writes retrieval.html and retrieval.json into a folder and returns the page."""
    write_data(folder / DATA, report.to_json())
    return write_page(
        folder / PAGE,
        package="evaluation.retrieval",
        template="report.html.jinja",
        title=f"Retrieval: {report.name}",
        subtitle=f"measured {report.about['measured']}",
        report=report,
        metrics=list(METRICS),
        latencies=_LATENCIES,
        first=next(iter(report.modes), ""),
        stages=list(dict.fromkeys(stage for mode in report.modes.values() for stage in mode.stages_ms)),
        plot=bars({name: mode.metrics["ndcg@10"] for name, mode in report.modes.items()}, label="nDCG@10"),
    )


def table(report: Report) -> Table:
    """Returns the modes with their intervals and latencies as a table."""
    title = f"{report.name}: {report.about['queries']} queries, {report.about['documents']} documents, 95 % intervals"
    found = Table("mode", *METRICS, "p50 / p95 / p99 ms", title=escape(title))
    for name, mode in report.modes.items():
        cells = [f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in mode.metrics.values()]
        found.add_row(name, *map(escape, cells), " / ".join(f"{mode.latency_ms[share]:.0f}" for share in _LATENCIES))
    for name, reason in report.absent.items():
        found.add_row(name, escape(f"not measured: {reason}"), *[""] * len(METRICS))
    return found
