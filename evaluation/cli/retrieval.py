"""`tandem evaluate retrieval`: measures search on labelled data."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.needs import needs_report
from evaluation.retrieval.asking import MODES
from evaluation.retrieval.beir import read
from evaluation.retrieval.documents import Shelf, slug
from evaluation.retrieval.measuring import Report, Wish, measure
from tandem.cli.output import AsJson, console, errors, print_json
from tandem.cli.progress import Bars
from tandem.cli.session import As, Target, settings, target
from tandem.client import AsyncRetrieverClient
from tandem.errors import InvalidInput

_SHORT = {"dense": "dense", "sparse": "sparse", "bm25": "sparse", "hybrid": "hybrid", "rerank": "hybrid + rerank"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("retrieval")(retrieval)


def retrieval(
    data: Annotated[Path, typer.Option(help="Folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels.tsv.")],
    modes: Annotated[str, typer.Option(help="Ways to search, by comma.")] = "dense,sparse,hybrid,rerank",
    split: Annotated[str, typer.Option(help="Judgements to take where there are several: qrels/SPLIT.tsv.")] = "test",
    queries: Annotated[int | None, typer.Option(help="Ask so many queries, drawn by --seed.", min=1)] = None,
    name: Annotated[
        str, typer.Option(help="Label of the documents; the folder's name by default.", show_default=False)
    ] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Group that sees the documents meanwhile; repeat it. None: the whole tenant."),
    ] = None,
    snapshot: Annotated[str, typer.Option(help="Snapshot to search instead of the live one.", show_default=False)] = "",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Also try ways to fuse on half of the queries, and measure the best on the others."
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(help="Searches at once.", min=1, max=256)] = 4,
    keep: Annotated[bool, typer.Option(help="Leave the documents there, for the next time.")] = False,
    clean: Annotated[bool, typer.Option(help="Only remove what a kept or broken run left.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of report and figures; evaluations/NAME in the home by default.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of drawn queries and intervals.")] = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Ingest a corpus, ask its queries in every mode, tell nDCG@10 and recall with intervals, and clean up.

    The documents are filed as the caller's own under a label, and searches are kept to it. A run that is broken off
    leaves them there: the same command goes on, and what is there already costs next to nothing. Searching needs the
    role "user" or "editor", ingesting "editor", --snapshot "platform".
    """
    needs_report()
    chosen = list(dict.fromkeys(_mode(part.strip()) for part in modes.split(",")))
    label = slug(name or data.resolve().name)
    to = target("retriever", principal)
    if clean:
        asyncio.run(_clean(to, label))
        return
    benchmark = read(data, split=split)
    wish = Wish(
        modes=chosen,
        most_queries=queries,
        concurrency=concurrency,
        groups=tuple(group or ()),
        snapshot=snapshot,
        tune=tune,
        seed=seed,
    )

    async def run() -> Report:
        async with AsyncRetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
            shelf = Shelf(client, label, groups=wish.groups)
            with Bars() as bars:
                report = await measure(benchmark, client, shelf, wish, bars.update)
                page = write(report, folder)
                if not keep:
                    await shelf.clear(bars.update)
        if as_json:
            print_json({"report": str(page), **report.to_json()})
        else:
            console.print(table(report))
            for note in report.notes:
                console.print(f"  {note}", markup=False, soft_wrap=True)
            console.print(f"report {page}", markup=False, soft_wrap=True)
        return report

    from evaluation.retrieval.telling import table, write  # brings matplotlib, which takes a second

    folder = out or settings().home / "evaluations" / label
    try:
        report = asyncio.run(run())
    except BaseException:
        errors.print("What was ingested stays: the same command goes on with it, --clean removes it.", markup=False)
        raise
    if not report.modes:
        raise typer.Exit(1)


async def _clean(to: Target, label: str) -> None:
    async with AsyncRetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        with Bars() as bars:
            removed = await Shelf(client, label).clear(bars.update)
    console.print(f"{removed} documents of {label} removed")


def _mode(name: str) -> str:
    if name not in _SHORT:
        raise InvalidInput.of("--modes", f"takes {', '.join(_SHORT)}, not {name!r}")
    assert set(_SHORT.values()) <= set(MODES)
    return _SHORT[name]
