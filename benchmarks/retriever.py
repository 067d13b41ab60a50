"""Measures retrieval: quality on public sets, latency, the cost of ingestion. `make bench-retriever`, see README.md.

Sections can be measured one by one: what is done lies in the work folder, and the page is written from all of it.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.retrieval_sets import SETS
from benchmarks.retriever_ingestion import ingestion
from benchmarks.retriever_latency import latency, synthetic_latency
from benchmarks.retriever_page import page
from benchmarks.retriever_quality import Conditions, quality
from benchmarks.runner import ROOT

_WORK = ROOT / ".tandem" / "bench-retriever"
QUALITY = tuple(f"quality-{name}" for name in SETS)
SECTIONS = (*QUALITY, "ingestion", "latency-10k", "latency-100k")
_GROUPS = {"all": SECTIONS, "quality": QUALITY, "latency": ("latency-10k", "latency-100k")}


def _sections(text: str) -> list[str]:
    names = [name for part in text.split(",") for name in _GROUPS.get(part, (part,))]
    if unknown := [name for name in names if name not in SECTIONS]:
        told = f"unknown {', '.join(unknown)}; known are {', '.join((*_GROUPS, *SECTIONS))}"
        raise argparse.ArgumentTypeError(told)
    return names


async def measure(section: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one section."""
    on = Conditions(
        data=options.data,
        work=options.work,
        seed=options.seed,
        precision=options.precision,
        reranker=options.reranker,
        most_queries=options.queries,
    )
    if section in QUALITY:
        return await quality(section.removeprefix("quality-"), on)
    if section == "ingestion":
        return await ingestion(on, chunks=options.chunks)
    load = {"rounds": options.rounds, "requests": options.requests, "seed": options.seed}
    if section == "latency-100k":
        return await synthetic_latency(options.work, chunks=options.synthetic, **load)
    done = _kept(options.work, "ingestion")
    if done is None:
        raise SystemExit("latency-10k searches what the section ingestion leaves: measure that first")
    return await latency(options.work / "real", **load) | {"chunks": done["chunks"], "vectors": "real"}


def _kept(work: Path, section: str) -> dict[str, Any] | None:
    path = work / f"{section}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _keep(work: Path, section: str, found: dict[str, Any]) -> None:
    scratch = work / f".{section}.partial"
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(work / f"{section}.json")


async def _main(options: argparse.Namespace) -> None:
    about = report.conditions() | {"seed": options.seed, "precision": options.precision, "reranker": options.reranker}
    options.work.mkdir(parents=True, exist_ok=True)
    for section in options.section:
        if _kept(options.work, section) is not None and not options.again:
            print(f"{section} is done already; --again measures it anew", flush=True)
            continue
        print(f"{section}", flush=True)
        try:
            measured = await measure(section, options)
        except FileNotFoundError as error:
            print(f"{section} is left out: {error.filename} is not there; name the sets with --data", flush=True)
            continue
        _keep(options.work, section, measured | {"conditions": report.conditions()})
    results = {name: found for name in SECTIONS if (found := _kept(options.work, name)) is not None}
    told, plots = page(results)
    print("\n" + told)
    print(report.write("retriever", about, told, {"sections": results}, plots=plots, folder=options.output))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retriever", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public sets")
    parser.add_argument("--section", type=_sections, default=list(SECTIONS), help="by comma: all, quality, ...")
    parser.add_argument("--again", action="store_true", help="measure anew what is done")
    parser.add_argument("--precision", default="auto", help="the embedder's (default auto)")
    parser.add_argument("--reranker", default="late-interaction", help="the embedder's; empty: none")
    parser.add_argument("--queries", type=int, help="of each set so many at most, in both halves together")
    parser.add_argument("--chunks", type=int, default=10_000, help="real chunks to ingest")
    parser.add_argument("--synthetic", type=int, default=100_000, help="synthetic chunks to search")
    parser.add_argument("--rounds", type=int, default=3, help="of latency")
    parser.add_argument("--requests", type=int, default=300, help="of latency, in each round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=_WORK, help="folder of data and what is done")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_main(_options()))
