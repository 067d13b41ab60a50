"""What the router itself adds to an answer: a real process before peers that know their answer."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.router_asking import closed_loop, open_loop
from benchmarks.router_figures import Asked, by_stage, of_peer, own, spread, told
from benchmarks.router_peers import ANSWER, Waits
from benchmarks.runner import ROOT
from benchmarks.sections import Line
from tandem.client import AsyncRouterClient
from tandem.config import inherited_environment
from tandem.security import Principal, issue, write_secret
from tandem.supervisor import Spec, Supervisor, free_port

POLICIES = ("finetuned", "rag", "cascade", "ensemble")
GOAL_MS = 5.0
_START_S, _STOP_S = 60.0, 30.0
_WARM_UP = 4  # questions a caller, of each policy
_OURS = ("TANDEM_", "ROUTER_", "OTEL_")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Is how many answers are made at once, and how long the peers take.

    Callers of instant peers ask in a closed loop. Where peers take time, questions come at random, so many a second
    that `at_once` answers wait for peers on average (Little's law): callers in a loop would march in step.
    """

    name: str
    at_once: int
    waits: Waits
    about: str

    def rate(self, policy: str) -> float | None:
        """Returns how many questions come a second; None for a closed loop."""
        waited = waited_s(policy, self.waits)
        return self.at_once / waited if waited else None


def waited_s(policy: str, waits: Waits) -> float:
    """Returns how long an answer waits for peers."""
    texts = 2 if policy == "cascade" else 1  # the draft, then what is read
    found = 0.0 if policy == "finetuned" else waits.embed + waits.search
    return found + texts * len(ANSWER) * waits.token


TIMED = Waits(embed=0.008, search=0.020, token=0.030)
LOADS = (
    Load("alone", 1, Waits(), "1 caller in a loop, instant peers: the bare length of the router's way"),
    Load("sixteen", 16, TIMED, "16 at once: questions at random, peers that take their time"),
    Load(
        "saturated",
        16,
        Waits(),
        "16 callers in a loop, instant peers: the router's core is the limit, and all wait for it",
    ),
)


@dataclass
class Cell:
    """Is one policy under one load: every answer, what each round's computing took, and how fast answers came."""

    answers: list[Asked] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """The router's processor seconds an answer, by round."""
    rates: list[float] = field(default_factory=list)
    """Answers a second, by round."""


Cells = dict[tuple[str, str], Cell]
"""Cells by the names of load and policy."""
_PARTS = ("rewrite", "audit", "scope", "ground")


@asynccontextmanager
async def peers(waits: Waits) -> AsyncIterator[str]:
    """Runs the peers; yields the address of all three. Raises RuntimeError where they do not start."""
    target = f"127.0.0.1:{free_port()}"
    given = [f"--{name}-ms={1000 * seconds}" for name, seconds in asdict(waits).items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.router_peers", "--listen", target, *given,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if process.stdout is None or b"ready" not in await asyncio.wait_for(process.stdout.readline(), _START_S):
            raise RuntimeError("the peers do not start")
        yield target
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_S)


@asynccontextmanager
async def router(home: Path, target: str) -> AsyncIterator[tuple[AsyncRouterClient, int]]:
    """Runs a router as `tandem up` does, before these peers; yields a client and the process."""
    text, tokens = issue(
        {
            "bench": Principal("bench", "bench", roles=frozenset({"user"})),
            "router": Principal("router", "tandem", roles=frozenset({"service", "user"})),
        }
    )
    write_secret(home / "tokens.json", text)
    write_secret(home / "router.token", tokens["router"] + "\n")
    listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "LISTEN": listen,
        "METRICS_LISTEN": metrics,
        "TOKEN_FILE": str(home / "tokens.json"),
        "CREDENTIAL_FILE": str(home / "router.token"),
        "AUDIT_URL": f"sqlite:///{home / 'audit.db'}",
        "MIN_GROUNDEDNESS": "0",
        **{f"{name}_TARGET": target for name in ("EMBEDDER", "RETRIEVER", "GENERATOR")},
    }
    environment = {key: value for key, value in inherited_environment().items() if not key.startswith(_OURS)}
    environment |= {f"ROUTER_{key}": value for key, value in settings.items()}
    spec = Spec("router", "tandem.v1.RouterService", listen, metrics, environment)
    async with Supervisor([spec], home=home).running() as supervisor:
        await supervisor.wait_ready(timeout_s=_START_S)
        async with AsyncRouterClient(listen, token=tokens["bench"]) as client:
            yield client, supervisor.pids()["router"]


async def measure(requests: int, rounds: int, work: Path) -> Cells:
    """Measures every policy under every load; policies take turns, so that a slow minute hits all alike.

    The audit log lies in `work`, which should be on a disk that keeps it: its syncs are part of the figures.
    """
    cells: Cells = {(load.name, policy): Cell() for load in LOADS for policy in POLICIES}
    for load in LOADS:
        with tempfile.TemporaryDirectory(dir=work, prefix="overhead-") as folder:
            async with peers(load.waits) as target, router(Path(folder), target) as (client, process):
                for policy in POLICIES:
                    warm_up = _questions(_WARM_UP * load.at_once, -1)
                    await closed_loop(client, warm_up, callers=load.at_once, policy=policy)
                for number in range(rounds):
                    for policy in POLICIES:
                        asked = _questions(max(requests // rounds, load.at_once), number)
                        before = processor_s(process)
                        answers, wall = await _loaded(client, asked, load, policy=policy, seed=number)
                        cell = cells[load.name, policy]
                        cell.cpu_s.append((processor_s(process) - before) / len(answers))
                        cell.rates.append(len(answers) / wall)
                        cell.answers += answers
                        if any(answer.degraded or answer.abstained for answer in answers):
                            raise RuntimeError(f"{load.name}, {policy}: answers lack a part; nothing was measured")
                        print(f"{load.name}, {policy}, round {number + 1}: {len(answers) / wall:.1f}/s", flush=True)
    return cells


async def _loaded(
    client: AsyncRouterClient, asked: Sequence[str], load: Load, *, policy: str, seed: int
) -> tuple[list[Asked], float]:
    rate = load.rate(policy)
    if rate is None:
        return await closed_loop(client, asked, callers=load.at_once, policy=policy)
    return await open_loop(client, asked, rate=rate, seed=seed, policy=policy)


def processor_s(process: int) -> float:
    """Returns the processor seconds of a process so far, all threads, in ticks of the clock (10 ms on Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime, proc(5)


def lines(cells: Cells) -> list[Line]:
    """Returns the goal's figures: the time outside stages, of 16 at once and of one."""
    found = []
    for load in LOADS[:2]:
        for policy in POLICIES:
            owns = [own(asked) for asked in cells[load.name, policy].answers]
            outside, added = spread([one.outside for one in owns]), spread([one.added for one in owns])
            detail = f"ms at p50; p95 {told(outside.p95)}; with its own stages {told(added.p50)}"
            found.append(Line(f"{policy}, {load.name}", outside.p50, GOAL_MS, detail=detail))
    return found


def page(cells: Cells) -> list[str]:
    """Returns the section as lines of Markdown."""
    found = [
        "## The router's own time", "",
        "A router process over gRPC, audit log in SQLite as in the local stack, before peers in a process of their own "
        f"that stream a fixed answer of {len(ANSWER)} tokens from three passages. Its caller is a third process on the "
        "same cores, and asks by StreamAsk. Milliseconds, p50 / p95 / p99.", "",
        "- *caller*: from the call to the finished answer, at the caller.",
        "- *outside stages*: caller less all stages of the answer's timings; the goal is about this. *Around* is "
        "caller less the answer's own `total`: the way there and back, authentication, admission, conversion, the "
        "caller's own part; *between* is `total` less its stages.",
        "- *added*: caller less the stages of peers alone (embed, search, generate): all that the router adds, its "
        "own stages (rewrite, both audit records with their fsync, grounding by words) included.",
        "- The router's side of its calls to peers (gRPC, each piece of text passed on) is within their stages and so "
        "in neither; *CPU* has it: processor milliseconds of the router an answer, all threads.",
        "- No two stages of these policies run at the same time, so a sum is the time taken; the run stops where they "
        "do. The cascade escalates every question.", "",
    ]  # fmt: skip
    for load in LOADS:
        found += [f"### {load.name}: {load.about}", ""]
        if any(asdict(load.waits).values()):
            waits = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in asdict(load.waits).items())
            rates = ", ".join(f"{policy} {load.rate(policy):.1f}" for policy in POLICIES)
            found += [f"The peers wait: {waits} each. Questions a second: {rates}.", ""]
        found += ["| policy | caller | outside stages | around | between | added | CPU | answers/s |", "|---" * 8 + "|"]
        for policy in POLICIES:
            cell = cells[load.name, policy]
            owns = [own(asked) for asked in cell.answers]
            columns = [
                spread([asked.seconds for asked in cell.answers]), spread([one.outside for one in owns]),
                spread([one.around for one in owns]), spread([one.between for one in owns]),
                spread([one.added for one in owns]),
            ]  # fmt: skip
            told_rest = f"{told(1000 * median(cell.cpu_s))} | {median(cell.rates):.1f}"
            found.append(f"| {policy} | {' | '.join(map(str, columns))} | {told_rest} |")
        found += ["", "| policy | " + " | ".join(_PARTS) + " | peers |", "|---" * (len(_PARTS) + 2) + "|"]
        for policy in POLICIES:
            answers = cells[load.name, policy].answers
            stages = by_stage(answers)
            waited = spread([sum(s for name, s in asked.stages.items() if of_peer(name)) for asked in answers])
            parts = [str(stages.get(part, "-")) for part in _PARTS]
            found.append(f"| {policy} | {' | '.join(parts)} | {waited} |")
        found.append("")
    return found


def data(cells: Cells) -> dict[str, Any]:
    """Returns the section as plain data: the distributions, for the answers by the thousand are megabytes."""
    return {
        "loads": [asdict(load) for load in LOADS],
        "cells": [{"load": load, "policy": policy, **_figures(cell)} for (load, policy), cell in cells.items()],
    }


def _figures(cell: Cell) -> dict[str, Any]:
    owns = [own(asked) for asked in cell.answers]
    found = {"caller": spread([asked.seconds for asked in cell.answers])}
    found |= {name: spread([getattr(one, name) for one in owns]) for name in ("outside", "around", "between", "added")}
    return {
        **{name: asdict(one) for name, one in found.items()},
        "stages": {name: asdict(one) for name, one in by_stage(cell.answers).items()},
        "cpu_s": cell.cpu_s,
        "rates": cell.rates,
    }


def _questions(count: int, round_: int) -> list[str]:
    return [f"What is the notice period of clause {round_ + 2}-{number + 1}?" for number in range(count)]
