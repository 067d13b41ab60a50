"""Tells what was measured: a table in the terminal, a page for people, a file for programs."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from evaluation.grounding.measuring import Report
from tandem.report import write_data, write_page
from tandem.report.plots import INK, SOFT, STRONG, bars, svg

PAGE, DATA = "grounding.html", "grounding.json"


def write(report: Report, folder: Path, *, name: str) -> Path:
    """Writes grounding.html and grounding.json into a folder and returns the page."""
    write_data(folder / DATA, report.to_json())
    *_, last = report.auroc
    return write_page(
        folder / PAGE,
        package="evaluation.grounding",
        template="report.html.jinja",
        title=f"Grounding: {name}",
        subtitle=f"measured {report.about['measured']}",
        report=report,
        last=last,
        plots=[bars(report.auroc, label="AUROC", strong=(last,)), _curves(report), _reliability(report)],
    )


def table(report: Report, *, name: str) -> Table:
    """Returns the scores with their intervals as a table."""
    title = f"{name}: {report.about['answers']} answers, {report.about['supported']} supported, 95 % intervals"
    *_, last = report.auroc
    found = Table("score", "AUROC", f"{last} is above it by", title=escape(title))
    for score, value in report.auroc.items():
        gain = report.gains.get(score)
        told = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else ""
        found.add_row(escape(score), escape(str(value)), escape(told))
    return found


def _curves(report: Report) -> str:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    *_, last = report.curves
    for style, (name, points) in zip(("--", ":", "-.", "-") * 3, report.curves.items(), strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "-" if name == last else style, color=STRONG if name == last else INK, label=name)
    axes.set_xlabel("share of the unsupported taken for supported")
    axes.set_ylabel("share of the supported found")
    axes.legend(frameon=False)
    return svg(figure, axes)


def _reliability(report: Report) -> str:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=SOFT)
    axes.plot([m for m, _, _ in report.reliability], [s for _, s, _ in report.reliability], "o-", color=STRONG)
    for at, share, number in report.reliability:
        axes.annotate(str(number), (at, share), textcoords="offset points", xytext=(5, -10), fontsize=8)
    axes.set_xlabel("groundedness, with the number of answers")
    axes.set_ylabel("share supported")
    return svg(figure, axes)
