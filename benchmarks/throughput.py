"""The comparison: the same prompts to every peer, rounds interleaved."""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import Absent
from benchmarks.peers.protocol import Prompt
from benchmarks.prompts import Prompts
from benchmarks.runner import Peer, running
from benchmarks.stats import Cell, agreement, summarise

_SLOWEST = 1.0  # tokens a second below which a load is given up


@dataclass(frozen=True)
class Plan:
    """Is what every peer has to do."""

    concurrency: list[int]
    threads: list[int]
    rounds: int
    max_tokens: int
    seed: int
    quick: bool = False

    def requests(self, concurrency: int) -> int:
        """How many prompts a load has: whole waves, so that the last is as full as the first."""
        return 2 * concurrency if self.quick or concurrency > 4 else 4 * concurrency


Key = tuple[str, int, int]  # peer, threads, concurrency


@dataclass
class Table:
    """Is what was measured: for each peer, threads and concurrency, a cell a round."""

    cells: dict[Key, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[Key, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def agreement(self, key: Key) -> float | None:
        """How far a peer's texts are those of the first peer that answered the same prompts; None for lack of any."""
        reference = next((texts for other, texts in self.texts.items() if other[1:] == key[1:]), None)
        return None if reference is None or key not in self.texts else agreement(self.texts[key], reference)


@dataclass(frozen=True)
class _Load:
    concurrency: int
    warm_up: list[Prompt]
    prompts: list[Prompt]


async def compare(peers: list[Peer], model: Path, plan: Plan, logs: Path) -> Table:
    """Measures all peers in every round; a peer that fails is out from then on, with the reason."""
    dealer = Prompts(model, seed=plan.seed)
    loads = [_Load(level, dealer.take(min(level, 4)), dealer.take(plan.requests(level))) for level in plan.concurrency]
    table = Table()
    for threads in plan.threads:
        for round_ in range(plan.rounds):
            for peer in peers:
                if peer.name in table.absent:
                    continue
                print(f"threads {threads}, round {round_ + 1}/{plan.rounds}: {peer.name}", flush=True)
                try:
                    await _measure(peer, model, threads, loads, plan, table, logs)
                except (Absent, RuntimeError, OSError) as error:
                    table.absent[peer.name] = f"{error} (log: {logs / peer.name}.log)"
                    print(f"  {table.absent[peer.name]}", flush=True)
    return table


async def _measure(
    peer: Peer, model: Path, threads: int, loads: list[_Load], plan: Plan, table: Table, logs: Path
) -> None:
    async with running(peer, model, threads=threads, log=logs / f"{peer.name}.log") as (runner, version):
        table.versions[peer.name] = version
        for load in loads[:1] if peer.one_at_a_time else loads:
            limit = 120 + len(load.prompts) * plan.max_tokens / _SLOWEST
            level = load.concurrency
            await runner.load(load.warm_up, concurrency=level, max_tokens=8, timeout_s=limit)
            results = await runner.load(load.prompts, concurrency=level, max_tokens=plan.max_tokens, timeout_s=limit)
            cell = summarise(results)
            key = (peer.name, threads, level)
            table.cells[key].append(cell)
            table.texts[key] = [result.text for result in results]
            _show(cell, level)
            if cell.tokens != plan.max_tokens * len(load.prompts):
                raise RuntimeError(f"{cell.tokens} tokens instead of {plan.max_tokens * len(load.prompts)}")


def new_logs() -> Path:
    """Makes a folder for the logs of one run."""
    return Path(tempfile.mkdtemp(prefix="tandem-bench-logs-"))


def _show(cell: Cell, level: int) -> None:
    rate, first, gap = cell.tokens_per_second, cell.ttft_p50, cell.gap_p50
    print(f"  {level:3d} at once: {rate:7.1f} tokens/s, first token {first:6.0f} ms, then {gap:5.1f} ms", flush=True)
