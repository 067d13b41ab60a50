"""Results as a page for people and a file for programs, with what one must know to repeat them."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.runner import PEERS, ROOT
from benchmarks.stats import middle
from benchmarks.throughput import Plan, Table

RESULTS = Path(__file__).parent / "results"


def conditions() -> dict[str, Any]:
    """Returns the machine, the commit and the load before the run; call it first."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = set((re.search(r"flags\s*: (.*)", text) or re.match("()", "") or [""])[1].split())
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_flags": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", "unset"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
    }


def write(
    kind: str,
    about: dict[str, Any],
    page: str,
    data: dict[str, Any],
    *,
    plots: Mapping[str, str] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Writes <date>-<kind>-<cpu>.md and .json, and returns the page; a run of the same day gets a number.

    Plots are SVG by name; each lies in a file beside the page, which shows it where it says ![name].
    """
    folder.mkdir(parents=True, exist_ok=True)
    cpu = re.sub(r"\((?:r|tm)\)|\b(?:cpu|processor)\b|@.*", "", about["cpu"].lower())
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu).strip("-")[:40]
    stem, number = f"{about['started'][:10]}-{kind}-{cpu}", 1
    while (folder / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    name = stem if number == 1 else f"{stem}-{number}"
    (folder / f"{name}.json").write_text(json.dumps({"conditions": about, **data}, indent=1) + "\n")
    for plot, drawn in (plots or {}).items():
        (folder / f"{name}-{plot}.svg").write_text(drawn)
        page = page.replace(f"![{plot}]", f"![{plot}]({name}-{plot}.svg)")
    target = folder / f"{name}.md"
    target.write_text(f"{page}\n{_conditions(about)}")
    return target


def throughput_page(table: Table, plan: Plan) -> str:
    """Returns the comparison as Markdown."""
    lines = [
        "# Generation: tokens per second, and how long callers wait", "",
        f"SmolLM2-135M-Instruct, distinct prompts of about 300 tokens, {plan.max_tokens} new tokens each, greedy, "
        f"closed loop. Median of {plan.rounds} rounds (least to most), prompts' reading included. Prefix sharing is "
        "off in all. \"agrees\" is how much of the reference's text a peer repeats before it departs from it.",
    ]  # fmt: skip
    for threads in plan.threads:
        for level in plan.concurrency:
            lines += ["", f"## {level} at once, {threads} compute thread{'s' if threads > 1 else ''}", ""]
            lines += _rows(table, threads, level, plan.concurrency[0])
    lines += ["", "## Peers", ""]
    lines += [f"- {p.name}: {p.about} ({table.versions[p.name]})" for p in PEERS if p.name in table.versions]
    lines += [f"- {name} is absent: {reason}" for name, reason in table.absent.items()]
    return "\n".join(lines) + "\n"


def _rows(table: Table, threads: int, level: int, lowest: int) -> list[str]:
    head = "| peer | tokens/s | x sequential | first token ms, p50 / p95 | between ms, p50 / p95 | tokens | agrees |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    base = table.cells.get(("sequential", threads, lowest))
    for (name, used, at), cells in table.cells.items():
        if (used, at) != (threads, level):
            continue
        cell, rates = middle(cells), [c.tokens_per_second for c in cells]
        ratio = f"{cell.tokens_per_second / middle(base).tokens_per_second:.1f}" if base else "-"
        agrees = table.agreement((name, used, at))
        rows.append(
            f"| {name} | {cell.tokens_per_second:.1f} ({min(rates):.1f} to {max(rates):.1f}) | {ratio} "
            f"| {cell.ttft_p50:.0f} / {cell.ttft_p95:.0f} | {cell.gap_p50:.1f} / {cell.gap_p95:.1f} | {cell.tokens} "
            f"| {'-' if agrees is None else f'{agrees:.2f}'} |"
        )
    return rows


def throughput_data(table: Table, plan: Plan) -> dict[str, Any]:
    """Returns the comparison as plain data, every round of it."""
    return {
        "plan": asdict(plan),
        "versions": table.versions,
        "absent": table.absent,
        "cells": [
            {"peer": name, "threads": threads, "concurrency": level, "rounds": [asdict(cell) for cell in cells]}
            for (name, threads, level), cells in table.cells.items()
        ],
    }


def _conditions(about: dict[str, Any]) -> str:
    rows = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in about.items())
    return f"## Conditions\n\n{rows}\n"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
