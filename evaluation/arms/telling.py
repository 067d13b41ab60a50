"""Tells how arms compare: a table in the terminal, a page for people, a file for programs."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from evaluation.arms.measuring import Report
from evaluation.arms.paths import EVIDENCE, OWN
from evaluation.arms.routers import COMPUTED
from tandem.report import write_data, write_page
from tandem.report.plots import INK, SOFT, STRONG, bars, svg

PAGE, DATA, CURVE = "arms.html", "arms.json", "cost-quality.svg"
_AXES = {"tokens": "tokens read and written, per answer", "calls": "calls of other services, per answer"}


def write(report: Report, folder: Path) -> Path:
    """Writes arms.html, arms.json and cost-quality.svg into a folder and returns the page."""
    write_data(folder / DATA, report.to_json() | {"findings": findings(report)})
    (folder / CURVE).write_text(curve(report, "tokens"), encoding="utf-8")
    strong = [arm for arm in report.arms if arm not in COMPUTED]
    return write_page(
        folder / PAGE,
        package="evaluation.arms",
        template="report.html.jinja",
        title=f"Arms: {report.name}",
        subtitle=f"measured {report.about['measured']}",
        report=report,
        findings=findings(report),
        metrics=list(dict.fromkeys(metric for arm in report.arms.values() for metric in arm.metrics)),
        kinds=list(dict.fromkeys(kind for arm in report.arms.values() for kind in arm.kinds)),
        priced=any(arm.cost is not None for arm in report.arms.values()),
        plot=bars(
            {name: arm.metrics["accuracy"] for name, arm in report.arms.items()}, label="accuracy", strong=strong
        ),
        curves=[curve(report, axis) for axis in _AXES],
    )


def table(report: Report) -> Table:
    """Returns the arms with their intervals and what they take as a table."""
    title = f"{report.name}: {report.num_questions} questions, right: {report.metric}, 95 % intervals"
    found = Table(
        "arm", "accuracy", "EM", "F1", "abstained", "grounded", "p50 / p95 ms", "calls", "tokens", title=escape(title)
    )
    for name, arm in report.arms.items():
        told = [
            escape(str(arm.metrics["accuracy"])),
            *(f"{arm.metrics[one].value:.3f}" for one in ("em", "f1", "abstained")),
            f"{arm.metrics['groundedness'].value:.3f}" if "groundedness" in arm.metrics else "",
            f"{arm.p50_ms:.0f} / {arm.p95_ms:.0f}" if arm.num_timed else "",
            f"{arm.calls:.1f}",
            f"{arm.tokens:.0f}",
        ]
        found.add_row(name, *told)
    for name, reason in report.absent.items():
        found.add_row(name, escape(f"not measured: {reason}"), *[""] * 7)
    return found


def findings(report: Report) -> list[str]:
    """Returns what the figures say in sentences, whichever way they point."""
    told = []
    pure = [arm for arm in (OWN, EVIDENCE) if arm in report.arms]
    if len(pure) == 2:
        best = max(pure, key=lambda arm: report.arms[arm].metrics["accuracy"].value)
        told.append(f"Of the pure paths {best} is right more often: {report.arms[best].metrics['accuracy']}.")
    for one in report.comparisons:
        gain = f"{one.gain.value:+.3f} [{one.gain.low:+.3f}, {one.gain.high:+.3f}]"
        price = f"{one.tokens.value:+.0f} tokens and {one.calls.value:+.1f} calls an answer"
        told.append(f"{one.arm} against {one.other}: {one.verdict}, {gain}, at {price}.")
    for arm, part in report.oracle_shares.items():
        told.append(f"{arm} has {part.value:.0%} [{part.low:.0%}, {part.high:.0%}] of the oracle's gain.")
    if report.oracle_gain is not None and not report.oracle_shares:
        told.append(
            f"Not even the oracle is shown to be right more often than the better pure path, {report.oracle_gain}: "
            "there is no gain to have a share of."
        )
    both = report.both.get("tokens")
    for arm in ("cascade", "auto", "dual", "ensemble"):
        if both and arm in report.arms:
            share = report.arms[arm].tokens / both
            told.append(f"{arm} takes {share:.0%} of the tokens that asking both paths every time would.")
    return told


def curve(report: Report, axis: str) -> str:
    """Returns accuracy over what an answer takes: each arm as a point, a cascade at every threshold as a line."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if report.curve:
        line = [(getattr(point, axis), point.accuracy) for point in report.curve]
        axes.plot(*zip(*line, strict=True), color=SOFT, linewidth=1.6, marker=".", label="cascade, all thresholds")
        axes.legend(frameon=False, loc="lower right")
    names: dict[tuple[float, float], list[str]] = {}
    for name, arm in report.arms.items():
        place = (arm.tokens if axis == "tokens" else arm.calls), arm.metrics["accuracy"].value
        names.setdefault(place, []).append(name)  # auto lies where the policy does that it chose
        axes.plot(*place, marker="o", markersize=6, color=SOFT if name in COMPUTED else STRONG)
    for place, those in names.items():
        axes.annotate(", ".join(those), place, xytext=(5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0, right=1.15 * axes.get_xlim()[1])  # the names have to fit
    return svg(figure, axes)
