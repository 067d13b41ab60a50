"""Draws a run's plots as SVG, the same bytes for the same figures."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tandem.scoring import Interval

_INK, _SOFT, _STRONG, _LINE = "#1f2933", "#9fb3c8", "#0b69a3", "#d9e2ec"


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the losses by step; the raw training loss pale, its moving mean and the validation loss strong."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    trained = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    if trained:
        steps, losses = zip(*trained, strict=True)
        axes.plot(steps, losses, color=_SOFT, linewidth=0.8, label="training, each step")
        axes.plot(steps, _smooth(losses), color=_STRONG, linewidth=1.6, label="training, moving mean")
    if held:
        axes.plot(*zip(*held, strict=True), color=_INK, marker="o", markersize=4, linewidth=1, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    if trained or held:
        axes.legend(frameon=False)
    return _svg(figure, axes)


def arms(intervals: Mapping[str, Interval], *, metric: str, candidate: str) -> str:
    """Returns a bar for each arm with its interval; the candidate's is dark."""
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(intervals)), layout="constrained")
    axes = figure.add_subplot()
    names = list(intervals)
    for place, name in enumerate(names):
        found = intervals[name]
        axes.barh(place, found.value, height=0.6, color=_STRONG if name == candidate else _SOFT)
        low, high = max(0.0, found.low), max(0.0, found.high)
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.4, marker="|", markersize=8)
        axes.text(max(high, found.value) + 0.01, place, f"{found.value:.3f}", va="center", color=_INK, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"{metric}, with 95 % intervals")
    return _svg(figure, axes)


def _smooth(losses: Sequence[float]) -> list[float]:
    means: list[float] = []
    for loss in losses:
        means.append(loss if not means else 0.95 * means[-1] + 0.05 * loss)
    return means


def _svg(figure: Figure, axes: Any) -> str:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    stream = io.StringIO()
    # Text stays text, and ids come from the content: no font is needed and nothing depends on the clock.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tandem", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
