"""Swaps the edition of a running collection and asks the same questions, as arXiv 2005.11401 does in section 4.5:
`make bench-hot-swap`, see README.md. Exits with 1 unless answers follow the promoted snapshot.

A generated table names who held each office in each of two years. Both editions are kept, each in force in its year; a
snapshot reads the documents as of its year. With each snapshot live, the questions are scored by whether the top
passage names the holder of either year.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.retriever_embedder import bag_of_words, embedder
from benchmarks.retriever_server import Retriever, model_embedder
from tandem.client import AsyncRetrieverClient, Upload
from tandem.v1 import retriever_service_pb2 as retriever

YEARS = (2016, 2018)
_OFFICES = ("prime minister", "governor", "mayor", "chief justice", "head of the central bank", "chancellor")
_DIMENSION = 384
_FAR = 0.5  # between the shares of matched and of mismatched questions


def facts(number: int, *, seed: int) -> list[tuple[str, dict[int, str]]]:
    """Returns offices, each with its holder in either year."""
    draw = random.Random(seed)  # noqa: S311 -- a table to ask about

    def name(ends: str) -> str:
        return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).title() + ends

    offices = [f"{_OFFICES[index % len(_OFFICES)]} of {name('land')}" for index in range(number)]
    return [(office, {year: f"{name('')} {name('son')}" for year in YEARS}) for office in offices]


def editions(table: list[tuple[str, dict[int, str]]]) -> Iterator[Upload]:
    """Yields a document for each fact of each year, in force in that year alone."""
    for year in YEARS:
        start, end = (datetime(year + more, 1, 1, tzinfo=UTC) for more in (0, 1))
        for index, (office, holders) in enumerate(table):
            text = f"# {office.capitalize()}\n\nThe {office} is {holders[year]}."
            yield Upload(
                document_id=f"{year}-{index:04d}",
                source=f"{index}.md",
                data=text.encode(),
                valid_from=start,
                valid_until=end,
            )


async def _whole(client: AsyncRetrieverClient, name: str) -> None:
    for _ in range(600):
        found = await client.get_snapshot(name)
        if found.state == retriever.Snapshot.STATE_READY:
            return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"snapshot {name} did not become ready: {found.error}")


async def _share(client: AsyncRetrieverClient, table: list[tuple[str, dict[int, str]]], year: int) -> float:
    """Returns the share of questions whose top passage names the holder of a year."""
    right = 0
    for office, holders in table:
        found = await client.search(f"Who is the {office}?", top_k=1)
        right += any(holders[year] in passage.text for passage in found.passages)
    return right / len(table)


async def measure(client: AsyncRetrieverClient, table: list[tuple[str, dict[int, str]]]) -> dict[str, Any]:
    """Returns the share of right answers for each live snapshot and year asked about, and how long promotions took."""
    async for _ in client.ingest(editions(table), timeout=600):
        pass
    for year in YEARS:
        await client.create_snapshot(f"year-{year}", as_of=datetime(year, 7, 1, tzinfo=UTC))
        await _whole(client, f"year-{year}")
    shares, seconds = {}, []
    for live in YEARS:
        started = time.perf_counter()
        await client.promote_snapshot(f"year-{live}")
        seconds.append(time.perf_counter() - started)
        shares[str(live)] = {str(year): await _share(client, table, year) for year in YEARS}
    return {"facts": len(table), "share_by_live_and_year": shares, "promotion_seconds": seconds}


def follows(measured: dict[str, Any]) -> bool:
    """Tells whether, whichever edition is live, its own questions are answered far more often than the other's."""
    shares = measured["share_by_live_and_year"]
    return all(
        shares[str(live)][str(live)] - shares[str(live)][str(other)] >= _FAR
        for live in YEARS
        for other in YEARS
        if live != other
    )


def page(measured: dict[str, Any], *, embedded_by: str, seed: int) -> str:
    """Returns what was measured as Markdown."""
    shares = measured["share_by_live_and_year"]
    rows = [
        f"| {live} | {' | '.join(f'{shares[str(live)][str(year)]:.1%}' for year in YEARS)} | {1e3 * seconds:.0f} ms |"
        for live, seconds in zip(YEARS, measured["promotion_seconds"], strict=True)
    ]
    years = " | ".join(f"holders of {year}" for year in YEARS)
    verdict = "Answers follow" if follows(measured) else "FAULT: answers do not follow"
    return "\n".join([
        "# Hot swap: one collection, two editions", "",
        f"{verdict} the promoted snapshot. {measured['facts']} offices with another holder in each year, embedded by "
        f"{embedded_by}, seed {seed}; the share of questions whose top passage names the holder of a year.", "",
        f"| live snapshot | {years} | promotion took |", f"|---|{'---|' * len(YEARS)}---|", *rows, "",
    ])  # fmt: skip


async def _main(options: argparse.Namespace) -> int:
    about = report.conditions()
    table = facts(options.facts, seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="tandem-hot-swap-") as folder:
        home = Path(folder)
        settings = (
            {"CREDENTIAL_FILE": str(home / "retriever.token")} if options.model else {"DIMENSION": str(_DIMENSION)}
        )
        peer = model_embedder(home, {}) if options.model else embedder(bag_of_words(_DIMENSION))
        async with peer as served:
            server = Retriever(home, served if isinstance(served, str) else served[0], settings)
            await server.start()
            try:
                async with server.client() as client:
                    measured = await measure(client, table)
            finally:
                await server.stop()
    embedded_by = "the bundled model" if options.model else "bags of words"
    told = page(measured, embedded_by=embedded_by, seed=options.seed)
    print(told)
    data = {"embedder": embedded_by, "seed": options.seed, **measured}
    print(report.write("hot-swap", about, told, data, folder=options.output))
    return 0 if follows(measured) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=82, help="offices; the paper asks 82 questions")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", action="store_true", help="embed with the bundled model instead of bags of words")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(_options())))
