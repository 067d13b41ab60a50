"""Kills the retriever and its Milvus Lite again and again: `make chaos-retriever`, see README.md. Exits with 1 on any
fault: something acknowledged was lost, something deleted came back, a chunk was there twice, or a call ended as none
should.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import report
from benchmarks.chaos_ledger import ABSENT, Ledger, faults_of_document, faults_of_search, written
from benchmarks.retriever_embedder import bag_of_words, embedder
from benchmarks.retriever_server import Retriever
from tandem.client import AsyncRetrieverClient, Upload
from tandem.errors import NotFound, TandemError
from tandem.scoring import percentile
from tandem.v1 import retriever_service_pb2 as retriever

DIMENSION = 32
NUM_WRITERS, NUM_SEARCHERS, DOCUMENTS_EACH = 3, 2, 12
KILLS = ("retriever", "engine", "both", "engine, then retriever", "retriever, and again while it starts")
_EXPECTED = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"}
_CALL_S, _CALM_S, _LONGEST_S, _AFTER_S = 40.0, 0.05, 2.5, 2.0
_MODES = (retriever.SEARCH_MODE_DENSE, retriever.SEARCH_MODE_SPARSE, retriever.SEARCH_MODE_HYBRID)
_LATE_S = 2.0


@dataclass
class Record:
    """Is what the chaos saw."""

    counts: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    restarts_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Chaos:
    """Lets writers and searchers loose on a retriever, kills, and looks at what is left."""

    def __init__(self, server: Retriever, *, seed: int) -> None:
        self.record = Record()
        self._server, self._random = server, Random(seed)  # noqa: S311
        self._names = [f"paper{n:02d}" for n in range(NUM_WRITERS * DOCUMENTS_EACH)]
        self.ledger = Ledger(self._names)
        self._killed, self._ending = False, False

    async def run(self, rounds: int, tell: Callable[[str], None]) -> None:
        """Does the rounds."""
        self.record.restarts_s.append(await self._server.start())
        for number in range(1, rounds + 1):
            kind = KILLS[(number - 1) % len(KILLS)]
            before = len(self.record.faults)
            async with self._server.client(timeout_s=_CALL_S) as client:
                await self._disturb(client, kind)
            async with self._server.client(timeout_s=_CALL_S) as client:
                await self.look(client, settled=kind != "engine")
            self.record.kills[kind] += 1
            self.record.faults[before:] = [f"round {number}, {kind}: {f}" for f in self.record.faults[before:]]
            tell(
                f"round {number}/{rounds}, {kind}: {self.record.counts['acknowledged']} changes acknowledged, "
                f"{self.record.counts['searches']} searches, {len(self.record.faults)} faults"
            )

    async def _disturb(self, client: AsyncRetrieverClient, kind: str) -> None:
        """Kills at a random moment while everybody is at work, and sees to it that the retriever runs afterwards."""
        self._killed = self._ending = False
        async with asyncio.TaskGroup() as tasks:
            for number in range(NUM_WRITERS):
                tasks.create_task(self._write(client, self._names[number::NUM_WRITERS], self._draw()))
            for _ in range(NUM_SEARCHERS):
                tasks.create_task(self._search(client, self._draw()))
            await asyncio.sleep(self._random.uniform(0.05, _LONGEST_S))
            self._killed = True
            if kind.startswith("engine"):
                self.record.counts["no engine to kill"] += not self._server.kill_engine()
            if kind == "engine":
                await asyncio.sleep(_AFTER_S)
            elif kind == "engine, then retriever":
                await asyncio.sleep(self._random.uniform(0, 1.5))
            self._ending = True
            if kind != "engine":
                await self._server.kill(engine_too=kind == "both")
        if kind.endswith("while it starts"):
            await self._server.begin()
            await asyncio.sleep(self._random.uniform(0, 3))
            await self._server.kill(engine_too=self._random.random() < 0.5)
        if kind != "engine":
            self.record.restarts_s.append(await self._server.start())

    async def _write(self, client: AsyncRetrieverClient, names: list[str], draw: Random) -> None:
        while not self._ending:
            if draw.random() < 0.3:
                going = await self._guarded(self._delete(client, draw.choice(names)))
            else:
                chosen = draw.sample(names, draw.randint(1, 6))
                going = await self._guarded(self._ingest(client, chosen))
            if not going:
                await asyncio.sleep(_CALM_S)

    async def _delete(self, client: AsyncRetrieverClient, name: str) -> None:
        before = self.ledger.may(name)
        self.ledger.begin(name, ABSENT)
        try:
            await client.delete_document(name)
        except NotFound:
            if ABSENT not in before:
                self.record.faults.append(f"{name} could not be deleted: it is not there, but {sorted(before)} is")
        self.ledger.acknowledge(name, ABSENT)
        self.record.counts["acknowledged"] += 1
        self.record.counts["deleted"] += 1

    async def _ingest(self, client: AsyncRetrieverClient, names: list[str]) -> None:
        versions = {name: self.ledger.new_version(name) for name in names}
        for name, version in versions.items():
            self.ledger.begin(name, version)
        uploads = [
            Upload(document_id=name, source=f"{name}.txt", title=name, data=written(name, version).encode())
            for name, version in versions.items()
        ]
        async for event in client.ingest(uploads, timeout=_CALL_S):
            if event.WhichOneof("event") != "result":
                continue
            name = event.result.document_id
            if event.result.state == retriever.IngestResult.STATE_REJECTED:
                self.record.faults.append(f"{name} was rejected: {event.result.error.message}")
                continue
            self.ledger.acknowledge(name, versions[name])
            self.record.counts["acknowledged"] += 1

    async def _search(self, client: AsyncRetrieverClient, draw: Random) -> None:
        while not self._ending:
            if not await self._guarded(self._search_once(client, draw)):
                await asyncio.sleep(_CALM_S)

    async def _search_once(self, client: AsyncRetrieverClient, draw: Random) -> None:
        mark = self.ledger.mark()
        found = await client.search(
            f"{draw.choice(self._names)} version part", top_k=draw.choice((5, 30, 100)), mode=draw.choice(_MODES)
        )
        self.record.counts["searches"] += 1
        self.record.counts["passages"] += len(found.passages)
        self.record.faults += faults_of_search(_told(found), self.ledger.since(mark))

    async def _guarded(self, call: Any) -> bool:
        """Awaits a call and tells whether it went well; any status that a kill does not explain is a fault."""
        try:
            await call
        except TandemError as error:
            self.record.counts[f"ended {error.code}"] += 1
            if not self._killed or error.code not in _EXPECTED:
                when = "after" if self._killed else "before"
                self.record.faults.append(f"{error.code} {error.reason} {when} the kill: {error.message}")
            return False
        return True

    async def look(self, client: AsyncRetrieverClient, *, settled: bool) -> None:
        """Compares every document with what may be seen of it.

        `settled` says that nothing is under way any more, since the process that was at work is gone: what is found
        then is what stays.
        """
        listed = {document.document_id async for document in client.list_documents()}
        for name in self._names:
            version, faults = await self._look_at(client, name, listed=name in listed)
            if faults and not settled and len(self.ledger.may(name)) > 1:
                await asyncio.sleep(_LATE_S)  # a change whose caller was let down may still be made
                listed = {document.document_id async for document in client.list_documents()}
                version, faults = await self._look_at(client, name, listed=name in listed)
            self.record.faults += faults
            self.record.counts["unacknowledged, looked at"] += len(self.ledger.may(name)) > 1
            if settled:
                self.ledger.acknowledge(name, version)

    async def _look_at(self, client: AsyncRetrieverClient, name: str, *, listed: bool) -> tuple[int, list[str]]:
        text, num_chunks = None, 0
        try:
            got = await client.get_document(name, include_text=True)
            text, num_chunks = got.text, got.document.num_chunks
        except NotFound:
            pass
        response = await client.search(name, top_k=100, mode=retriever.SEARCH_MODE_SPARSE)
        found = [passage for passage in _told(response) if passage[0] == name]
        version, faults = faults_of_document(name, text, num_chunks, found, self.ledger.may(name))
        if listed is not (text is not None):
            faults.append(f"{name} is {'listed and not there' if listed else 'there and not listed'}")
        return version, faults

    def check_rows(self, stored: list[dict[str, Any]]) -> None:
        """Compares the rows that are left in the file with the documents: none too many, none twice."""
        for collection in {row["collection"] for row in stored}:
            mine = [row for row in stored if row["collection"] == collection]
            places = Counter((row["document_id"], row["start"]) for row in mine)
            self.record.faults += [f"the row of {place} is there {n} times" for place, n in places.items() if n > 1]
            held = Counter(row["document_id"] for row in mine)
            for name in self._names:
                (version,) = self.ledger.may(name)
                wanted = 0 if version == ABSENT else len(written(name, version).split("\n\n"))
                if held[name] != wanted:
                    self.record.faults.append(f"{name} has {held[name]} rows in {collection} instead of {wanted}")

    def _draw(self) -> Random:
        return Random(self._random.random())  # noqa: S311


def _told(response: retriever.SearchResponse) -> list[tuple[str, int, str]]:
    return [(passage.document_id, passage.span.start, passage.text) for passage in response.passages]


async def chaos(home: Path, *, rounds: int, seed: int, tell: Callable[[str], None] = print) -> Record:
    """Does so many rounds in a folder and returns what was seen."""
    async with embedder(bag_of_words(DIMENSION)) as address:
        server = Retriever(home, address, {"DIMENSION": str(DIMENSION), "DRAIN_SECONDS": "5"})
        run = Chaos(server, seed=seed)
        try:
            await run.run(rounds, tell)
            # The last look may have been at an engine that was killed alone; a start settles what is left.
            await server.kill(engine_too=True)
            await server.start()
            async with server.client(timeout_s=_CALL_S) as client:
                await run.look(client, settled=True)
        finally:
            await server.stop()
        command = [sys.executable, "-m", "benchmarks.retriever_rows", str(server.database)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=120)
        run.check_rows([json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")])
        log = server.log.read_text(errors="replace")
        run.record.faults += [f"the log: {line[:300]}" for line in log.splitlines() if "Traceback" in line][:5]
    return run.record


def page(record: Record, seed: int) -> str:
    """Returns the record as Markdown."""
    kills = "\n".join(f"| {kind} | {count} |" for kind, count in sorted(record.kills.items()))
    counts = "\n".join(f"| {what} | {count} |" for what, count in sorted(record.counts.items()))
    restarts = [f"{percentile(record.restarts_s, share):.1f}" for share in (0.5, 1.0)]
    return (
        f"# Chaos: {record.kills.total()} rounds of ingestion, deletion and search, each ended by kill -9\n\n"
        f"Seed {seed}; {len(record.faults)} faults; ready again after {restarts[0]} s (median), {restarts[1]} s at "
        "most.\n\n" + "".join(f"- FAULT: {fault}\n" for fault in record.faults[:100])
        + f"\n| killed | rounds |\n|---|---|\n{kills}\n\n| what | how often |\n|---|---|\n{counts}\n"
    )  # fmt: skip


async def _main(options: argparse.Namespace) -> int:
    about = report.conditions()
    with tempfile.TemporaryDirectory(prefix="tandem-chaos-") as folder:
        record = await chaos(
            Path(folder), rounds=options.rounds, seed=options.seed, tell=lambda text: print(text, flush=True)
        )
    told = page(record, options.seed)
    print("\n" + told)
    data = {"kills": record.kills, "counts": record.counts, "restarts_s": record.restarts_s, "faults": record.faults}
    about |= {"seed": options.seed, "rounds": options.rounds}
    print(report.write("chaos-retriever", about, told, data, folder=options.output))
    return 1 if record.faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retriever_chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(_options())))
