"""`tandem evaluate grounding`: measures groundedness on labelled answers."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.needs import needs_report
from evaluation.grounding.asking import DEPTHS, asking
from evaluation.grounding.cases import Case, read
from evaluation.grounding.measuring import Report, judge, report
from evaluation.retrieval.documents import slug
from tandem.cli.output import AsJson, console, print_json
from tandem.cli.progress import Bars
from tandem.cli.session import As, Target, settings, target
from tandem.client import AsyncRouterClient
from tandem.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("grounding")(grounding)


def grounding(
    data: Annotated[
        list[Path], typer.Option(help="JSONL of context, question, answer, label; may end in .gz. Repeat it.")
    ],
    depth: Annotated[
        str, typer.Option(help="Evidence to consult, by comma: words, vectors, likelihood, entailment.")
    ] = "words",
    concurrency: Annotated[int, typer.Option(help="Answers judged at once.", min=1, max=256)] = 4,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the reports; evaluations/ in the home by default.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Ask the router how far each answer is supported, and tell how well that separates the labels.

    The table has the AUROC of each depth beside two scores that cost nothing, with intervals. Needs the role "user".
    """
    needs_report()
    depths = list(dict.fromkeys(_depth(part.strip()) for part in depth.split(",")))
    files = {slug(path.name.removesuffix(".gz").removesuffix(".jsonl")): read(path) for path in data}
    if len(files) != len(data):
        raise InvalidInput.of("--data", "two files have the same name: their reports would overwrite each other")

    from evaluation.grounding.telling import table, write  # brings matplotlib, which takes a second

    found = asyncio.run(_measured(target("router", principal), files, depths, concurrency=concurrency, seed=seed))
    pages = {
        name: write(one, (out or settings().home / "evaluations") / f"grounding-{name}", name=name)
        for name, one in found.items()
    }
    if as_json:
        print_json({name: {"report": str(pages[name]), **one.to_json()} for name, one in found.items()})
        return
    for name, one in found.items():
        console.print(table(one, name=name))
        for note in one.notes:
            console.print(f"  {note}", markup=False, soft_wrap=True)
        console.print(f"report {pages[name]}", markup=False, soft_wrap=True)


async def _measured(
    to: Target, files: dict[str, list[Case]], depths: list[str], *, concurrency: int, seed: int
) -> dict[str, Report]:
    found = {}
    async with AsyncRouterClient(to.address, token=to.token, timeout=to.timeout) as client:
        with Bars() as bars:
            for name, cases in files.items():
                judged = {}
                for depth in depths:
                    told = partial(bars.update, f"{name}, {depth}", total=len(cases))
                    judged[depth] = await judge(cases, asking(client, depth), told, concurrency=concurrency)
                found[name] = await asyncio.to_thread(report, cases, judged, seed=seed)
    return found


def _depth(name: str) -> str:
    if name not in DEPTHS:
        raise InvalidInput.of("--depth", f"takes {', '.join(DEPTHS)}, not {name!r}")
    return name
