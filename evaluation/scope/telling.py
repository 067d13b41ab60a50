"""Tells what was measured of a scope: a table in the terminal, a page for people, a file for programs."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from evaluation.scope.measuring import Report
from tandem.report import write_data, write_page
from tandem.report.plots import INK, SOFT, STRONG, svg

PAGE, DATA = "scope.html", "scope.json"


def write(report: Report, folder: Path) -> Path:
    """Writes scope.html and scope.json into a folder and returns the page."""
    write_data(folder / DATA, report.to_json())
    return write_page(
        folder / PAGE,
        package="evaluation.scope",
        template="report.html.jinja",
        title=f"Scope: {report.name}",
        subtitle=f"measured {report.about['measured']}",
        report=report,
        plot=histogram(report),
    )


def table(report: Report) -> Table:
    """Returns the figures as a table."""
    title = f"{report.name}: {report.num_inside} texts inside, {report.num_outside} outside, 95 % intervals"
    told = Table("figure", "value", title=escape(title))
    told.add_row("AUROC of the distance", escape(str(report.auroc)))
    told.add_row("AUROC of the length", escape(str(report.auroc_of_length)))
    told.add_row("threshold", f"{report.threshold:.4f}")
    told.add_row("inside, accepted", escape(str(report.inside_accepted)))
    told.add_row("outside, rejected", escape(str(report.outside_rejected)))
    return told


def histogram(report: Report) -> str:
    """Returns how many texts of either label lie at which distance, and the threshold as a line."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0, max(*report.inside, *report.outside, report.threshold) * 1.02 + 1e-9, 41)
    for values, colour, label in ((report.outside, SOFT, "outside"), (report.inside, STRONG, "inside")):
        axes.hist(
            values,
            bins=edges.tolist(),
            weights=np.full(len(values), 1 / len(values)),
            color=colour,
            alpha=0.7,
            label=label,
        )
    axes.axvline(report.threshold, color=INK, linewidth=1.2, linestyle="--")
    axes.legend(frameon=False)
    axes.set_xlabel("distance to the training questions (line: threshold)")
    axes.set_ylabel("share of the texts of a label")
    return svg(figure, axes)
