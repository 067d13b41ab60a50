"""From labelled answers to figures: asks for the groundedness of each and compares it with what costs nothing."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
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
    """The last score less each trivial one, paired."""
    curves: dict[str, list[tuple[float, float]]]
    reliability: list[tuple[float, float, int]]
    """Of each tenth of the scale that holds answers: mean groundedness, share supported, number."""
    statuses: dict[str, dict[str, int]]
    """By way of judging: how many answers have each status."""
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


async def judge(
    cases: Sequence[Case], ask: Ask, on_done: Callable[[int], None] = lambda _: None, *, concurrency: int = 1
) -> list[Judged]:
    """Asks for each answer, so many at once; `on_done` is told how many are there."""
    judged: dict[int, Judged] = {}
    left = iter(enumerate(cases))

    async def work() -> None:
        for place, case in left:
            judged[place] = await ask(case)
            on_done(len(judged))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return [judged[place] for place in range(len(cases))]


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
    statuses = {name: dict(Counter(one.status for one in ways)) for name, ways in judged.items()}
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
        notes=[*_absent(judged), *([f"{missing} answers without a figure count as 0."] if missing else [])],
    )


def _absent(judged: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    for name, ways in judged.items():
        if partial := [one for one in ways if one.status == "partial"]:
            used = ", ".join(sorted({signal for one in partial for signal in one.rests_on}))
            yield f"{name}: {len(partial)} answers lack evidence that was asked for; they rest on {used} alone."


def bins(values: Sequence[float], supported: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Returns (mean, share supported, number) of each tenth of the scale that holds values."""
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for value, is_yes in zip(values, supported, strict=True):
        rows[min(int(value * NUM_BINS), NUM_BINS - 1)].append((value, is_yes))
    return [(mean([v for v, _ in row]), mean([float(y) for _, y in row]), len(row)) for row in rows if row]
