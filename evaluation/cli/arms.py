"""`tandem evaluate arms`: which policy is worth what in a domain, against the base model and simple routers."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.answers.answered import Kept
from evaluation.answers.asking import Progress, Router
from evaluation.answers.judging import MIN_F1, Rule
from evaluation.answers.questions import Question
from evaluation.arms.folder import Folder, read_folder
from evaluation.arms.measuring import Wish, ask_arms, report_of
from evaluation.arms.paths import ARMS, Base, asker
from evaluation.cli.asking import Clients, Concurrency, Domain, Fresh, MinF1, Out, Seed
from evaluation.cli.needs import needs_report
from evaluation.retrieval.asking import some
from evaluation.retrieval.documents import Filed, Shelf, slug
from tandem.cli.output import AsJson, console, print_json
from tandem.cli.progress import Bars
from tandem.cli.session import As, settings, target
from tandem.client import AsyncGeneratorClient, AsyncRetrieverClient

if TYPE_CHECKING:
    from evaluation.arms.measuring import Report


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("arms")(arms)


def arms(
    data: Annotated[Path, typer.Option(help="Folder with questions.jsonl and, if they are to be filed, documents.")],
    domain: Domain = "",
    wanted: Annotated[str, typer.Option("--arms", help="Arms to ask, by comma.")] = ",".join(ARMS),
    questions: Annotated[int | None, typer.Option(help="Ask so many questions, drawn by --seed.", min=1)] = None,
    name: Annotated[
        str, typer.Option(help="Label of the documents; the folder's name by default.", show_default=False)
    ] = "",
    min_f1: MinF1 = MIN_F1,
    concurrency: Concurrency = 4,
    timed: Annotated[int, typer.Option(help="Questions asked one at a time, for the latency.", min=0)] = 40,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the documents there, for the next time.")] = False,
    fresh: Fresh = False,
    again: Annotated[str, typer.Option(help="Arms to ask anew, by comma; other answers are kept.")] = "",
    out: Out = None,
    seed: Seed = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Ask a domain's questions by every policy and by the base model, and tell what each is worth and what it takes.

    Answers are kept: the same command goes on where it was broken off. `results = "arms.json"` in the domain's file
    lets the policy auto choose by what was measured. Documents are filed under a label; to keep the domain's searches
    to them its file needs `evaluation = "NAME"` in its table documents. Asking needs the role "user", filing "editor".
    """
    needs_report()
    folder = read_folder(data)
    label = slug(name or data.resolve().name)
    work = out or settings().home / "evaluations" / f"arms-{label}"
    if fresh:
        (work / "answers.jsonl").unlink(missing_ok=True)
    chosen = tuple(dict.fromkeys(part.strip() for part in wanted.split(",") if part.strip()))
    wish = Wish(arms=chosen, concurrency=concurrency, num_timed=timed, seed=seed)
    drawn = some({one.question_id: one.question for one in folder.questions}, questions, seed=seed)
    asked = [one for one in folder.questions if one.question_id in drawn]
    rule = Rule(folder.questions, min_f1=min_f1)
    forgotten = {part.strip() for part in again.split(",")}

    async def run() -> "Report":
        async with AsyncExitStack() as stack:
            bars, kept = stack.enter_context(Bars()), stack.enter_context(Kept(work / "answers.jsonl"))
            kept.forget(forgotten)
            filed, shelf = await _file(stack, folder, label, principal, bars.update)
            to = target("generator", principal)
            generator = await stack.enter_async_context(
                AsyncGeneratorClient(to.address, token=to.token, timeout=to.timeout)
            )
            by = asker(Router(Clients(stack, principal).of, domain=domain).by, Base(generator, kept))
            absent = await ask_arms(asked, by, kept, wish, bars.update)
            report = report_of(label, _known_as(asked, shelf), kept, rule, wish, absent)
            report.about |= {"folder": str(data.resolve()), "domain": domain or "the default one"}
            report.notes += [*folder.notes, *([] if filed is None else filed.notes())]
            if shelf is not None and not keep:
                await shelf.clear(bars.update)
        return report

    report = asyncio.run(run())
    from evaluation.arms.telling import findings, table, write  # brings matplotlib, which takes a second

    page = write(report, work)
    if as_json:
        print_json({"report": str(page), "findings": findings(report), **report.to_json()})
    else:
        console.print(table(report))
        for line in [*findings(report), *(f"  {note}" for note in report.notes)]:
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"report {page}", markup=False, soft_wrap=True)
    if not report.arms:
        raise typer.Exit(1)


async def _file(
    stack: AsyncExitStack, folder: Folder, label: str, principal: str | None, on_progress: Progress
) -> tuple[Filed | None, Shelf | None]:
    """Files the folder's documents, where it brings any."""
    if not folder.has_documents:
        return None, None
    to = target("retriever", principal)
    client = await stack.enter_async_context(AsyncRetrieverClient(to.address, token=to.token, timeout=to.timeout))
    shelf = Shelf(client, label)
    names = {upload.document_id for upload in folder.uploads()}
    pairs = ((upload.document_id, upload) for upload in folder.uploads())
    return await shelf.put(names, pairs, Filed(), on_progress), shelf


def _known_as(questions: Sequence[Question], shelf: Shelf | None) -> list[Question]:
    """Returns the questions with the ids that their gold documents have in the retriever besides their own."""
    if shelf is None:
        return list(questions)
    return [
        replace(one, gold_document_ids=(*one.gold_document_ids, *map(shelf.document_id, one.gold_document_ids)))
        for one in questions
    ]
