"""Measures the router's own time, and how long callers of the local stack wait: `make bench-router`, see README.md."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, router_latency, router_overhead
from benchmarks.runner import ROOT
from benchmarks.sections import Line

SECTIONS = ("overhead", "latency")
_WORK = ROOT / ".tandem" / "bench-router"


def goals(lines: Sequence[Line]) -> list[str]:
    """Returns figures beside their goals, as lines of Markdown."""
    rows = ["| figure | measured | goal | met | detail |", "|---|---|---|---|---|"]
    rows += [
        f"| {line.what} | {line.value:.1f} | at most {line.target:g} | {'yes' if line.met else 'no'} | {line.detail} |"
        for line in lines
    ]
    return [*rows, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the sections asked for, and writes one page of them."""
    options = _options(arguments)
    about, work = report.conditions(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    written = ["# The router", ""]
    data: dict[str, Any] = {"requests": options.requests, "rounds": options.rounds}
    lines: list[Line] = []
    pages: list[str] = []
    if "overhead" in options.section:
        cells = asyncio.run(router_overhead.measure(options.requests, options.rounds, work))
        lines += router_overhead.lines(cells)
        pages += router_overhead.page(cells)
        data["overhead"] = router_overhead.data(cells)
    if "latency" in options.section:
        found = router_latency.measure(min(options.requests, router_latency.QUESTIONS), work)
        lines += router_latency.lines(found)
        pages += router_latency.page(found)
        data["latency"] = router_latency.data(found)
    page = "\n".join([*written, *goals(lines), *pages])
    print("\n" + page)
    print(report.write("router", about, page, data, folder=options.output))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--section", type=_sections, default=SECTIONS, help="by comma: overhead, latency (default all)")
    parser.add_argument(
        "--requests",
        type=int,
        default=600,
        help="answers of each policy under each load (default 600); the latency section asks at most 60",
    )
    parser.add_argument("--rounds", type=int, default=3, help="in how many turns of the policies (default 3)")
    parser.add_argument("--work", type=Path, default=_WORK, help="folder of the stack and the audit logs")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    main()
