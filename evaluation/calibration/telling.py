"""Tells what was calibrated: a table in the terminal, a page for people, a file for programs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from evaluation.calibration.calibrating import Calibration
from evaluation.calibration.measures import Bin
from tandem.report import write_data, write_page
from tandem.report.plots import INK, LINE, SOFT, STRONG, svg

PAGE, DATA = "calibration.html", "calibration.json"


def write(found: Calibration, document: dict[str, Any], folder: Path, *, scope_note: str = "") -> Path:
    """Writes calibration.html and calibration.json into a folder and returns the page.

    `document` is the sealed artefact. It is written elsewhere: the report keeps its figures, not its scope's vectors.
    """
    scope = document["scope"]
    kept = {**document, "scope": None if scope is None else {**scope, "rows": "", "precision": ""}}
    kept["steps"] = [vars(step) for step in found.certificate.steps]
    kept["notes"] = found.notes
    write_data(folder / DATA, kept)
    return write_page(
        folder / PAGE,
        package="evaluation.calibration",
        template="report.html.jinja",
        title=f"Calibration: {document['domain']}",
        subtitle=f"fitted {document['created']}, artefact {document['sha256'][:12]}",
        found=found,
        document=document,
        verdict=verdict(found),
        scope_note=scope_note,
        before=diagram(found.bins_before) if found.bins_before else "",
        after=diagram(found.bins_after),
        curve=trade(found) if found.certificate.steps else "",
    )


def verdict(found: Calibration) -> str:
    """Returns in one sentence what was certified, or that nothing was; the share accepted is always in it."""
    goal = f"at most {found.wish.risk:.1%} of the accepted answers wrong, at {found.wish.level:.0%} confidence"
    if found.certificate.threshold is None:
        return f"No threshold could be certified for {goal}: 0.0% is accepted, the cascade escalates everything."
    return (
        f"From confidence {found.certificate.threshold:.4f} on, {found.accepted.value:.1%} of the questions are "
        f"accepted ({found.accepted.low:.1%} to {found.accepted.high:.1%}): {goal}."
    )


def table(found: Calibration) -> Table:
    """Returns the figures as a table."""
    title = f"{found.num_questions} questions: {found.num_fitted} fit, {found.num_certifying} certify and measure"
    told = Table("figure", "value", title=escape(title))
    threshold = found.certificate.threshold
    rows = {
        "threshold": "none certified" if threshold is None else f"{threshold:.4f}",
        "accepted": str(found.accepted),
        "wrong among accepted": "nothing is accepted" if found.risk is None else str(found.risk),
        "right answers": f"{found.accuracy:.3f}",
        "AUROC": "one kind of answers only" if found.auroc is None else str(found.auroc),
        "ECE, token probability": "not known" if found.ece_before is None else f"{found.ece_before:.3f}",
        "ECE, calibrated": f"{found.ece_after:.3f}",
        "features": ", ".join(found.model.names),
    }
    for name, value in rows.items():
        told.add_row(escape(name), escape(value))
    return told


def diagram(bins: list[Bin]) -> str:
    """Returns a reliability diagram: share of right answers over confidence, the size of each range below it."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1.2, linestyle="--")
    most = max(one.num for one in bins)
    for one in bins:
        axes.bar(one.confidence, 0.15 * one.num / most, width=0.05, color=LINE)
        axes.plot([one.confidence, one.confidence], [one.low, one.high], color=INK, linewidth=1.2)
        axes.text(one.confidence, 0.15 * one.num / most + 0.01, str(one.num), ha="center", fontsize=7, color=INK)
    axes.plot([one.confidence for one in bins], [one.correct for one in bins], color=STRONG, marker="o")
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers, with 95 % intervals")
    return svg(figure, axes)


def trade(found: Calibration) -> str:
    """Returns the measured risk over the share accepted for each tested threshold, the stated risk as a line."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    shares = [step.num_accepted / found.num_certifying for step in found.certificate.steps]
    axes.axhline(found.wish.risk, color=INK, linewidth=1, linestyle="--")
    axes.plot(shares, [step.risk for step in found.certificate.steps], color=SOFT, linewidth=1.4)
    for step, share in zip(found.certificate.steps, shares, strict=True):
        axes.plot([share], [step.risk], marker="o", markersize=5, color=STRONG if step.certified else SOFT)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of questions accepted (dark: certified)")
    axes.set_ylabel("wrong among accepted")
    return svg(figure, axes)
