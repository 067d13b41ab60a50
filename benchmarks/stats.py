"""Figures of a measurement; no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.peers.protocol import Result
from tandem.scoring import percentile as percentile


@dataclass(frozen=True)
class Cell:
    """Sums up one load: rates in tokens a second, times in milliseconds."""

    tokens_per_second: float
    ttft_p50: float
    ttft_p95: float
    gap_p50: float
    gap_p95: float
    tokens: int
    requests: int


def gaps(results: Sequence[Result]) -> list[float]:
    """Returns the seconds between one piece of output and the next, over all requests."""
    return [b - a for result in results for a, b in zip(result.times, result.times[1:], strict=False)]


def first_tokens(results: Sequence[Result]) -> list[float]:
    """Returns the seconds from each request to its first output."""
    return [result.times[0] - result.submitted for result in results if result.times]


def summarise(results: Sequence[Result]) -> Cell:
    """Sums up a load from the first request to the last output: the prompts' reading counts."""
    wall = max(r.times[-1] for r in results if r.times) - min(r.submitted for r in results)
    tokens = sum(r.tokens for r in results)
    first, between = first_tokens(results), gaps(results)
    return Cell(
        tokens_per_second=tokens / wall,
        ttft_p50=1000 * percentile(first, 0.5),
        ttft_p95=1000 * percentile(first, 0.95),
        gap_p50=1000 * percentile(between, 0.5),
        gap_p95=1000 * percentile(between, 0.95),
        tokens=tokens,
        requests=len(results),
    )


def middle(cells: Sequence[Cell]) -> Cell:
    """Returns the median of each figure over the rounds."""
    return Cell(
        tokens_per_second=median(c.tokens_per_second for c in cells),
        ttft_p50=median(c.ttft_p50 for c in cells),
        ttft_p95=median(c.ttft_p95 for c in cells),
        gap_p50=median(c.gap_p50 for c in cells),
        gap_p95=median(c.gap_p95 for c in cells),
        tokens=cells[0].tokens,
        requests=cells[0].requests,
    )


def agreement(texts: Sequence[str], reference: Sequence[str]) -> float:
    """Returns how much of the reference each text repeats before it departs from it, on average, 0 to 1."""
    shares = [_common(a, b) / max(len(b), 1) for a, b in zip(texts, reference, strict=True)]
    return sum(shares) / len(shares)


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Returns the least-squares slope of y over x; 0 of fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
