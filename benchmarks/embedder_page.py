"""Turns what the embedders' sections measured into a page: a table of arms, and which goals are met."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.embedder_arms import ARMS, DEFAULT, EXACT, REFERENCE, SERVER

CALLERS = 16
QUALITY = "quality-"
"""Begins the name of a section that judges one arm; the rest is the arm's name."""
_NEAR = 0.005


@dataclass(frozen=True)
class Plan:
    """Is what to measure."""

    source: str
    rounds: int
    passages: int
    queries: int
    threads: int
    seed: int


@dataclass(frozen=True)
class Round:
    """Is one arm's turn, beside what was measured just before and after it."""

    passages_per_second: float
    single_ms: float
    """p50 of a query that is alone."""
    at_once_ms: float | None = None
    """p50 of a query with 15 others on their way; None for an arm that serves one caller."""
    cosine: tuple[float, float] | None = None
    """Mean and least cosine to the reference's vectors of the same texts."""


@dataclass
class Cell:
    """Sums up one arm."""

    version: str = ""
    turns: list[tuple[Round, Mapping[str, Round]]] = field(default_factory=list)
    """Each round of the arm, with those of all arms in the same minute."""
    ndcg: float | None = None

    def values(self, name: str) -> list[float]:
        """Returns one figure of every round that has it."""
        found = (getattr(own, name) for own, _ in self.turns)
        return [value for value in found if value is not None]

    def ratio(self, name: str, base: str) -> float | None:
        """Returns the median of the arm's figure divided by the base's of the same round."""
        pairs = [(getattr(own, name), getattr(beside[base], name)) for own, beside in self.turns if base in beside]
        found = [own / other for own, other in pairs if own is not None and other is not None]
        return median(found) if found else None


def cells(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """Returns what the sections, by their names, have measured of each arm."""
    found = {arm.name: Cell() for arm in ARMS}
    for section, result in results.items():
        if section.startswith(QUALITY):
            found[section.removeprefix(QUALITY)].ndcg = result.get("ndcg")
            continue
        for name, version in result["versions"].items():
            found[name].version = version
        for measured in result["rounds"]:
            beside = {name: Round(**figures) for name, figures in measured.items()}
            for name, own in beside.items():
                found[name].turns.append((own, beside))
    return {name: cell for name, cell in found.items() if cell.turns}


def page(found: Mapping[str, Cell], absent: Mapping[str, str], plan: Plan) -> str:
    """Returns the comparison as Markdown."""
    lines = [
        "# Embedding: passages per second, and how long a query waits", "",
        f"all-MiniLM-L6-v2, {plan.source}. Each arm has {plan.threads} compute threads. In each of {plan.rounds} rounds"
        f" {plan.passages} passages together, {plan.queries // 2} queries one after the other, and {plan.queries} "
        f"queries of {CALLERS} callers at once; medians over the rounds (least to most). Arms are measured in groups "
        f"that take turns, each with {REFERENCE} among them; in brackets the median of the multiples of what it did in "
        "the same round. The queries of a round are all different, and our cache of queries is off "
        "(`EMBEDDER_CACHE_TEXTS=0`): every vector is computed. Cosine to the reference's vectors: mean, least.", "",
        f"| arm | passages/s | query alone, p50 ms | {CALLERS} callers, p50 ms | cosine | nDCG@10 |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_row(name, cell) for name, cell in found.items()]
    lines += ["", "## Goals", "", "| goal | measured | met |", "|---|---|---|"]
    lines += [f"| {goal} | {value:.2f} | {'yes' if met else 'no'} |" for goal, value, met in goals(found)]
    lines += ["", "## Arms", ""]
    lines += [f"- {arm.name}: {arm.about} ({found[arm.name].version})" for arm in ARMS if arm.name in found]
    lines += [f"- {name} is absent: {reason}" for name, reason in absent.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, cell: Cell) -> str:
    cosine = [own.cosine for own, _ in cell.turns if own.cosine is not None]
    alike = f"{median(mean for mean, _ in cosine):.4f}, {min(least for _, least in cosine):.4f}" if cosine else "-"
    ndcg = f"{cell.ndcg:.4f}" if cell.ndcg is not None else "-"
    faster, sooner = cell.ratio("passages_per_second", REFERENCE), _sooner(cell)
    return (
        f"| {name} | {_figure(cell.values('passages_per_second'), faster)} "
        f"| {_figure(cell.values('single_ms'), sooner)} | {_figure(cell.values('at_once_ms'), None)} | {alike} "
        f"| {ndcg} |"
    )


def _sooner(cell: Cell) -> float | None:
    share = cell.ratio("single_ms", REFERENCE)
    return 1 / share if share else None


def _figure(values: Sequence[float], ratio: float | None) -> str:
    if not values:
        return "-"
    text = f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    return text if ratio is None else f"{text} [{ratio:.1f}]"


def goals(found: Mapping[str, Cell]) -> list[tuple[str, float, bool]]:
    """Returns what was aimed at, what was measured, and whether it was reached."""
    judged: list[tuple[str, float, bool]] = []
    if DEFAULT in found:
        judged += _against_reference("default precision", found[DEFAULT], passages=3.5, single=1.8)
    if near := _near(found):
        name = max(near, key=lambda name: found[name].ratio("passages_per_second", REFERENCE) or 0.0)
        what = f"fastest within {_NEAR} nDCG@10 of fp32 ({name})"
        judged += _against_reference(what, found[name], passages=5.0, single=4.0)
    if DEFAULT in found and (share := found[DEFAULT].ratio("at_once_ms", SERVER)) is not None:
        judged.append((f"{CALLERS} callers: at most half of the server's p50", share, share <= 0.5))
    return judged


def _against_reference(what: str, cell: Cell, *, passages: float, single: float) -> Iterable[tuple[str, float, bool]]:
    faster, sooner = cell.ratio("passages_per_second", REFERENCE), _sooner(cell)
    if faster is not None and sooner is not None:
        yield f"{what}: at least {passages} times the passages", faster, faster >= passages
        yield f"{what}: a query at least {single} times as soon", sooner, sooner >= single


def _near(found: Mapping[str, Cell]) -> list[str]:
    """Returns our arms whose quality is that of fp32."""
    exact = found[EXACT].ndcg if EXACT in found else None
    ours = {arm.name for arm in ARMS if arm.ours}
    return [
        name
        for name, cell in found.items()
        if name in ours and exact is not None and cell.ndcg is not None and abs(cell.ndcg - exact) <= _NEAR
    ]
