"""Compares the generator with its peers, and measures what only it has: `make bench-generator`, see README.md."""

import argparse
import asyncio
from pathlib import Path

from benchmarks import environments, report, sections
from benchmarks.runner import PEERS
from benchmarks.throughput import Plan, compare, new_logs


def _numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError("numbers from 1")
    return values


def _names(text: str) -> list[str]:
    names, known = text.split(","), [peer.name for peer in PEERS]
    if unknown := [name for name in names if not any(peer.startswith(name) for peer in known)]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__)
    parser.add_argument("--section", choices=("throughput", *sections.SECTIONS, "all"), default="all")
    parser.add_argument("--only", type=_names, help="peers by name or beginning, for example sequential,tandem")
    parser.add_argument("--concurrency", type=_numbers, help="callers at once (default 1,4,16,32)")
    parser.add_argument("--threads", type=_numbers, default=[2], help="compute threads (default 2; 1,2 does both)")
    parser.add_argument("--rounds", type=int, help="how often each peer has its turn (default 3)")
    parser.add_argument("--model", type=Path, help="folder of the model (default: the bundled one, made ready first)")
    parser.add_argument("--precision", default="bf16", help="of the sections that have no peers (default bf16)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of prompts")
    parser.add_argument("--quick", action="store_true", help="1 and 4 at once, one round, 16 tokens: does it work?")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    about, model = report.conditions(), options.model or environments.bundled_model()
    quick = options.quick
    plan = Plan(
        concurrency=options.concurrency or ([1, 4] if quick else [1, 4, 16, 32]),
        threads=options.threads,
        rounds=options.rounds or (1 if quick else 3),
        max_tokens=16 if quick else 48,
        seed=options.seed,
        quick=quick,
    )
    if options.section in ("throughput", "all"):
        peers = [p for p in PEERS if not options.only or any(p.name.startswith(name) for name in options.only)]
        table = await compare(peers, model, plan, new_logs())
        page = report.throughput_page(table, plan)
        print("\n" + page)
        print(report.write("generator", about, page, report.throughput_data(table, plan), folder=options.output))
    wanted = [name for name in sections.SECTIONS if options.section in (name, "all")]
    if wanted:
        found = [await sections.SECTIONS[name](model, plan, options.precision) for name in wanted]
        page = sections.page(found, options.precision, plan)
        print("\n" + page)
        data = {"precision": options.precision, "sections": [section.data() for section in found]}
        print(report.write("generator-sections", about, page, data, folder=options.output))


if __name__ == "__main__":
    asyncio.run(_run(_options()))
