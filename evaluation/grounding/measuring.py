"""From labelled answers to figures: asks for the groundedness of each and compares it with what costs nothing."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evaluation.grounding.cases import Case
from evaluation.grounding.metrics import Draws, auroc, curve, interval, length, overlap
from tandem.scoring import Interval, mean

LENGTH, OVERLAP, GROUNDEDNESS = "length", "token overlap", "groundedness"
NUM_BINS = 10


@dataclass(frozen=True)
class Judged:
    """Is what the services said of one answer; value is None where the status says that there is no figure."""

    value: float | None
    status: str
    rests_on: tuple[str, ...] = ()


Ask = Callable[[Case], Coroutine[Any, Any, Judged]]
"""Asks the services for the groundedness of one answer."""


@dataclass(kw_only=True)
class Report:
    """Holds the figures of one file."""

    about: dict[str, Any]
    auroc: dict[str, Interval]
    """By score; the trivial ones first."""
    gains: dict[str, Interval]
    """Groundedness less each trivial score, paired."""
    curves: dict[str, list[tuple[float, float]]]
    reliability: list[tuple[float, float, int]]
    """Of each tenth of the scale that holds answers: mean groundedness, share supported, number."""
    statuses: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the curves."""
        shown = {name: vars(found) for name, found in self.auroc.items()}
        gains = {name: vars(found) for name, found in self.gains.items()}
        bins = [{"mean": m, "supported": s, "answers": n} for m, s, n in self.reliability]
        return {
            "about": self.about, "auroc": shown, "gains": gains, "reliability": bins, "statuses": self.statuses,
            "notes": self.notes,
        }  # fmt: skip


async def measure(
    cases: Sequence[Case], ask: Ask, on_done: Callable[[], None] = lambda: None, *, seed: int = 0
) -> Report:
    """Asks for each answer in turn and returns the report."""
    judged = []
    for case in cases:
        judged.append(await ask(case))
        on_done()
    return report(cases, {GROUNDEDNESS: judged}, seed=seed)


def report(cases: Sequence[Case], judged: Mapping[str, Sequence[Judged]], *, seed: int = 0) -> Report:
    """Returns the figures of one or several ways to judge, the last of them the one that is compared.

    An answer without a figure counts as groundedness 0: nothing supports it. How many there were is told.
    """
    supported = [case.supported for case in cases]
    scores: dict[str, list[float]] = {
        LENGTH: [length(case.answer) for case in cases],
        OVERLAP: [overlap(case.answer, case.context) for case in cases],
        **{name: [one.value or 0.0 for one in found] for name, found in judged.items()},
    }
    draws = Draws(supported, [case.group for case in cases], seed=seed)
    drawn = {name: draws.aurocs(values) for name, values in scores.items()}
    found = {name: interval(auroc(values, supported), drawn[name]) for name, values in scores.items()}
    *_, last = scores
    gains = {
        name: interval(
            found[last].value - found[name].value, [a - b for a, b in zip(drawn[last], drawn[name], strict=True)]
        )
        for name in (LENGTH, OVERLAP)
    }
    statuses: dict[str, int] = {}
    for one in judged[last]:
        statuses[one.status] = statuses.get(one.status, 0) + 1
    missing = sum(one.value is None for one in judged[last])
    return Report(
        about={
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "answers": len(cases),
            "supported": sum(supported),
            "groups": len({case.group for case in cases}),
            "signals": ", ".join(sorted({" + ".join(one.rests_on) for one in judged[last] if one.rests_on})),
            "seed": seed,
        },
        auroc=found,
        gains=gains,
        curves={name: curve(values, supported) for name, values in scores.items()},
        reliability=bins(scores[last], supported),
        statuses=statuses,
        notes=[f"{missing} answers without a figure count as 0."] if missing else [],
    )


def bins(values: Sequence[float], supported: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Returns (mean, share supported, number) of each tenth of the scale that holds values."""
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for value, is_yes in zip(values, supported, strict=True):
        rows[min(int(value * NUM_BINS), NUM_BINS - 1)].append((value, is_yes))
    return [(mean([v for v, _ in row]), mean([float(y) for _, y in row]), len(row)) for row in rows if row]
