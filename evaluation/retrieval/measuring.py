"""From a folder to figures: files the corpus, asks in every mode, scores, and puts all into one record."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from evaluation.retrieval.asking import MODES, Answers, Asking, NotServed, some
from evaluation.retrieval.beir import Benchmark
from evaluation.retrieval.documents import Filed, Progress, Shelf
from evaluation.retrieval.metrics import METRICS
from evaluation.retrieval.tuning import Tuning, num_searches, tune
from tandem.client import AsyncRetrieverClient
from tandem.scoring import Interval, mean_interval, paired_interval, percentile

PERCENTILES = (0.50, 0.95, 0.99)
Values = dict[str, list[float]]
"""One value for each query in their order, by metric."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Is what to measure."""

    modes: Sequence[str] = tuple(MODES)
    most_queries: int | None = None
    concurrency: int = 4
    groups: Sequence[str] = ()
    snapshot: str = ""
    tune: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """Is what one mode is worth."""

    metrics: dict[str, Interval]
    gains: dict[str, Interval]
    """By how much each metric is above that of the first mode; empty for the first."""
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    """Median of the server's own stages."""
    values: Values
    rankings: dict[str, list[str]]


@dataclass
class Report:
    """Is everything that was found."""

    name: str
    about: dict[str, Any]
    filed: Filed
    modes: dict[str, Measured] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a mode was not measured."""
    tuning: Tuning | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data, with the values and the documents of every query."""
        return asdict(self)


async def measure(
    benchmark: Benchmark, client: AsyncRetrieverClient, shelf: Shelf, wish: Wish, on_progress: Progress
) -> Report:
    """Files the corpus, asks and scores; the corpus stays."""
    queries = some(benchmark.queries, wish.most_queries, seed=wish.seed)
    filed = await shelf.fill(benchmark, on_progress)
    report = Report(benchmark.folder.resolve().name, _about(benchmark, queries, wish), filed)
    report.notes += [*benchmark.notes, *filed.notes()]
    asking = Asking(
        client=client,
        names={shelf.document_id(name): name for name in benchmark.documents},
        search_filter=shelf.filter(),
        snapshot=wish.snapshot,
        concurrency=wish.concurrency,
    )
    answers: dict[str, Answers] = {}
    for name in wish.modes:
        try:
            answers[name] = await asking.ask(
                MODES[name], queries, _counting(f"asking, {name}", len(queries), on_progress)
            )
        except NotServed as error:
            report.absent[name] = str(error)
    report.modes = scored(answers, benchmark.judgements, list(queries), seed=wish.seed)
    if wish.tune:
        tell = _counting("tuning", num_searches(len(queries)), on_progress)
        report.tuning = await tune(asking, queries, benchmark.judgements, tell, seed=wish.seed)
        report.notes.append(report.tuning.note() if report.tuning else "There are too few queries to tune on.")
    return report


def _counting(what: str, total: int, on_progress: Progress) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_progress(what, done, total)

    return tell


def scored(
    answers: Mapping[str, Answers], judgements: Mapping[str, Mapping[str, int]], queries: Sequence[str], *, seed: int
) -> dict[str, Measured]:
    """Returns the figures of every mode; all are resampled by the same draws, so that differences are paired."""
    found: dict[str, Measured] = {}
    first: Values = {}
    for name, given in answers.items():
        values = evaluated(given.rankings, judgements, queries)
        gains = {metric: paired_interval(values[metric], first[metric], seed=seed) for metric in first}
        first = first or values
        found[name] = Measured(
            metrics={metric: mean_interval(values[metric], seed=seed) for metric in METRICS},
            gains=gains,
            latency_ms=latencies(list(given.seconds.values())),
            stages_ms={stage: 1000 * percentile(taken, 0.5) for stage, taken in given.stages.items()},
            values=values,
            rankings=given.rankings,
        )
    return found


def evaluated(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Mapping[str, int]], queries: Sequence[str]
) -> Values:
    """Returns every metric of every query."""
    return {
        metric: [score(rankings[query], judgements[query]) for query in queries] for metric, score in METRICS.items()
    }


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Returns p50, p95 and p99 in milliseconds."""
    return {f"p{100 * share:.0f}": 1000 * percentile(seconds, share) for share in PERCENTILES}


def _about(benchmark: Benchmark, queries: Mapping[str, str], wish: Wish) -> dict[str, Any]:
    return {
        "folder": str(benchmark.folder.resolve()),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "documents": len(benchmark.documents),
        "queries": len(queries),
        "concurrency": wish.concurrency,
        "snapshot": wish.snapshot or "the live one",
        "seed": wish.seed,
        "machine of the caller": platform.platform(),
    }
