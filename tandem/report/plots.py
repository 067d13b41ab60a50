"""Draws plots as SVG, the same bytes for the same figures."""

import io
from collections.abc import Collection, Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tandem.scoring import Interval

INK, SOFT, STRONG, LINE = "#1f2933", "#9fb3c8", "#0b69a3", "#d9e2ec"


def bars(intervals: Mapping[str, Interval], *, label: str, strong: Collection[str] = ()) -> str:
    """Returns a bar for each figure of 0 to 1 with its interval; the strong ones are dark."""
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(intervals)), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, found) in enumerate(intervals.items()):
        axes.barh(place, found.value, height=0.6, color=STRONG if name in strong else SOFT)
        low, high = max(0.0, found.low), max(0.0, found.high)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.4, marker="|", markersize=8)
        axes.text(max(high, found.value) + 0.01, place, f"{found.value:.3f}", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(intervals)), list(intervals))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"{label}, with 95 % intervals")
    return svg(figure, axes)


def svg(figure: Figure, axes: Any) -> str:
    """Returns a figure of one plot as an SVG element in the common look."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    stream = io.StringIO()
    # Text stays text, and ids come from the content: no font is needed and nothing depends on the clock.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tandem", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
