"""Draws a run's losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tandem.report.plots import INK, SOFT, STRONG, svg


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the losses by step; the raw training loss pale, its moving mean and the validation loss strong."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    trained = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    if trained:
        steps, losses = zip(*trained, strict=True)
        axes.plot(steps, losses, color=SOFT, linewidth=0.8, label="training, each step")
        axes.plot(steps, _smooth(losses), color=STRONG, linewidth=1.6, label="training, moving mean")
    if held:
        axes.plot(*zip(*held, strict=True), color=INK, marker="o", markersize=4, linewidth=1, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    if trained or held:
        axes.legend(frameon=False)
    return svg(figure, axes)


def _smooth(losses: Sequence[float]) -> list[float]:
    means: list[float] = []
    for loss in losses:
        means.append(loss if not means else 0.95 * means[-1] + 0.05 * loss)
    return means
