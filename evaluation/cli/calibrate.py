"""`tandem calibrate`: from labelled questions to a calibrated confidence and a certified threshold for a domain."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.answers.answered import Kept
from evaluation.answers.asking import Router
from evaluation.answers.judging import MIN_F1, Rule
from evaluation.answers.questions import Question, asked_in, read
from evaluation.cli.asking import Clients, Concurrency, Fresh, MinF1, Out, Seed
from evaluation.cli.needs import needs_report
from evaluation.retrieval.documents import slug
from tandem.cli.output import AsJson, console, print_json
from tandem.cli.progress import Bars
from tandem.cli.session import As, settings, target
from tandem.client import AsyncEmbedderClient, AsyncFeedbackClient

if TYPE_CHECKING:
    from evaluation.calibration.collecting import Collected

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def calibrate(
    domain: Annotated[str, typer.Option(help="Domain to calibrate.")],
    data: Annotated[Path, typer.Option(help="Labelled questions: question_id, question, answers, group a line.")],
    scope_data: Annotated[
        Path | None,
        typer.Option(help="The questions that the adapter learnt, `question` a line: the scope is fitted on them."),
    ] = None,
    risk: Annotated[float, typer.Option(help="Greatest share of wrong answers among the accepted.")] = 0.1,
    level: Annotated[float, typer.Option(help="Chance that this holds.")] = 0.95,
    isotonic: Annotated[bool, typer.Option("--isotonic", help="Bend the confidence by an isotonic curve.")] = False,
    feedback: Annotated[
        bool,
        typer.Option(
            "--feedback", help="Also fit on what people said of the adapter's answers; never certifies. Role: operator."
        ),
    ] = False,
    min_f1: MinF1 = MIN_F1,
    concurrency: Concurrency = 4,
    fresh: Fresh = False,
    artefact: Annotated[
        Path | None, typer.Option("--out", help="The artefact; NAME.calibration.json in --folder by default.")
    ] = None,
    folder: Out = None,
    seed: Seed = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Ask labelled questions by the adapter and by passages, fit confidence, scope and blend, and certify a threshold.

    An answer is right by exact match or token F1; a question without answers wants an abstention. At least 300
    questions are needed. Answers are kept: the same command goes on where it was broken off.
    """
    needs_report()
    questions = read(data)
    training = [] if scope_data is None else asked_in(scope_data)
    rule = Rule(questions, min_f1=min_f1)
    work = folder or settings().home / "evaluations" / f"calibrate-{slug(domain)}"
    if fresh:
        (work / "answers.jsonl").unlink(missing_ok=True)
    found, judged = asyncio.run(
        _collect(questions, training, rule, work, domain, concurrency, principal, feedback=feedback, seed=seed)
    )
    from evaluation.calibration import artefact as artefacts
    from evaluation.calibration.blending import fit_blend
    from evaluation.calibration.calibrating import Wish
    from evaluation.calibration.calibrating import calibrate as fit
    from evaluation.calibration.collecting import cascade_features, of_feedback, write_rows
    from evaluation.calibration.rows import read as read_rows
    from evaluation.calibration.telling import table, verdict, write
    from tandem.report import write_data

    labelled = read_rows(write_rows(found.rows, work / "labelled.jsonl"))
    names = cascade_features(found.rows)
    told, unusable = of_feedback(judged, names=names)
    wish = Wish(risk=risk, level=level, features=names, isotonic=isotonic, seed=seed)
    fitted = fit(labelled.rows, wish, fit_too=told)
    blend, blended = fit_blend(labelled.rows)
    fitted.notes.extend([f"right: {rule.metric}", *found.notes, blended])
    if feedback:
        fitted.notes.append(
            f"feedback: {len(told)} answers fitted; {unusable} verdicts replaced, of other paths, or lacking a figure"
        )
    document = artefacts.artefact(
        fitted.document(),
        domain=domain,
        created=datetime.now(UTC),
        model_sha256=found.model_sha256,
        adapter_sha256=found.adapter_sha256,
        data_sha256=labelled.data_sha256,
        scope=None if found.scope is None else found.scope.document(),
        blend=blend,
    )
    path = write_data(artefact or work / f"{slug(domain)}.calibration.json", document)
    page = write(fitted, document, work)
    if as_json:
        shown = {key: value for key, value in document.items() if key not in ("scope", "features")}
        print_json({"artefact": str(path), "report": str(page), "verdict": verdict(fitted), **shown})
        return
    console.print(table(fitted))
    console.print(verdict(fitted), markup=False, soft_wrap=True)
    for note in fitted.notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    console.print(f"report {page}", markup=False, soft_wrap=True)
    console.print(
        f"put {path} beside the domain's file {domain}.toml, and into that file:", markup=False, soft_wrap=True
    )
    console.print(f'calibration = "{path.name}"', markup=False, soft_wrap=True)


async def _collect(
    questions: tuple[Question, ...],
    training: list[str],
    rule: Rule,
    work: Path,
    domain: str,
    concurrency: int,
    principal: str | None,
    *,
    feedback: bool,
    seed: int,
) -> "tuple[Collected, list[Any]]":
    from evaluation.calibration.collecting import collect

    async with AsyncExitStack() as stack:
        to = target("embedder", principal)
        embedder = await stack.enter_async_context(AsyncEmbedderClient(to.address, token=to.token, timeout=to.timeout))
        bars, kept = stack.enter_context(Bars()), stack.enter_context(Kept(work / "answers.jsonl"))
        found = await collect(
            questions,
            training,
            asking=Router(Clients(stack, principal).of, domain=domain),
            embedder=embedder,
            kept=kept,
            rule=rule,
            concurrency=concurrency,
            on_progress=bars.update,
            seed=seed,
        )
        judged = []
        if feedback:
            to = target("router", principal)
            client = await stack.enter_async_context(
                AsyncFeedbackClient(to.address, token=to.token, timeout=to.timeout)
            )
            judged = [one async for one in client.list(domain=domain)]
    return found, judged


if __name__ == "__main__":
    from tandem.cli.app import run

    run(app)
