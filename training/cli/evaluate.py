"""`tandem train evaluate`: a run against the base model and the adapter in use."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.options import (
    AsJson,
    ByThread,
    Device,
    Keys,
    Margin,
    MaxForgetting,
    MaxQuestions,
    MinQuestions,
    Name,
    NoIncumbent,
    Registry,
    Seed,
    Tenant,
    Threads,
    Trust,
    Where,
)
from training.cli.output import REJECTED, Bars, console, print_json, tell_verdict, telling, told_arms
from training.cli.run import SOURCE

if TYPE_CHECKING:
    from training.gate import Evaluation, GateSettings

RunFolder = Annotated[Path, typer.Argument(help="Folder that `tandem train run` wrote.")]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(evaluate)


def evaluate(
    run: RunFolder,
    registry: Registry = None,
    tenant: Tenant = "",
    name: Name = "",
    trust: Trust = None,
    keys: Keys = None,
    no_incumbent: NoIncumbent = False,
    margin: Margin = 0.0,
    max_forgetting: MaxForgetting = None,
    min_questions: MinQuestions = 20,
    max_questions: MaxQuestions = 300,
    by_thread: ByThread = False,
    seed: Seed = 17,
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset folder, where it was moved since.", show_default=False)
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Base model folder, where it was moved since.", show_default=False)
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Ask the test questions of all arms and decide: accepted, or rejected with reasons (exit status 3).

    Arms are the base model with its best prompt (chosen on the validation split), the candidate, and the adapter in
    use where --name and --tenant name one; without and with passages where the dataset has both. Accepted is who is
    better than those of them that are asked as it was trained, beyond the paired bootstrap interval, and forgot no more
    than --max-forgetting. The other arms tell whether passages would serve better.
    """
    with telling(as_json=as_json):
        from training.gate import MAX_FORGETTING, GateSettings
        from training.methods import read_run

        settings = GateSettings(
            margin=margin,
            max_forgetting=max_forgetting or MAX_FORGETTING[read_run(run).method.name],
            min_questions=min_questions,
            max_questions=max_questions,
            threads=by_thread,
            seed=seed,
        )
        where = Where(
            registry=registry,
            tenant=tenant,
            name=name,
            trust=tuple(trust or ()),
            keys=keys,
            no_incumbent=no_incumbent,
        )
        found = do(run, where, settings, dataset=dataset, base=base, device=device, threads=threads, as_json=as_json)
    if not found.verdict.accepted:
        raise typer.Exit(REJECTED)


def do(
    folder: Path,
    where: Where,
    settings: "GateSettings",
    *,
    dataset: Path | None = None,
    base: Path | None = None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> "Evaluation":
    """Evaluates, writes evaluation.json, answers.jsonl and the report, and tells the arms and the verdict."""
    from training.cli.keys import incumbent_of
    from training.evaluating import evaluate_run
    from training.methods import read_run
    from training.report import write_report

    run = read_run(folder)
    incumbent = incumbent_of(where, default_tenant=run.record["dataset"]["config"].get("tenant", ""))
    with Bars() as bars:
        evaluation, data = evaluate_run(
            run,
            dataset=dataset or _source(folder),
            base=base,
            incumbent=incumbent,
            waived=where.no_incumbent,
            settings=settings,
            device=device,
            threads=threads,
            on_progress=bars.update,
        )
    page = write_report(run, evaluation, data)
    if as_json:
        print_json({"run": str(folder), "report": str(page), **evaluation.to_json()})
        return evaluation
    console.print(told_arms(evaluation))
    for note in evaluation.notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    tell_verdict(evaluation)
    console.print(f"report {page}; next: tandem train register {folder}", markup=False, soft_wrap=True)
    return evaluation


def known(folder: Path, where: Where, settings: "GateSettings") -> "Evaluation | None":
    """Returns the evaluation that lies in a run's folder, if it is what evaluating again would find."""
    from training.cli.keys import place_of
    from training.gate import EvaluationInvalid, read_evaluation
    from training.methods import read_run

    run = read_run(folder)
    try:
        found = read_evaluation(folder)
    except EvaluationInvalid:
        return None
    stable = place_of(where).stable() if where.name and not where.no_incumbent else None
    if stable is not None and run.result["weights_sha256"].startswith(stable):
        stable = found.about.get("incumbent")  # it has come into use since it was measured
    same = (run.result["weights_sha256"], run.record["dataset"]["sha256"], stable, where.no_incumbent)
    about = tuple(found.about.get(key) for key in ("weights_sha256", "dataset_sha256", "incumbent", "incumbent_waived"))
    return found if about == same and found.settings == settings else None


def _source(folder: Path) -> Path:
    from training.gate import EvaluationInvalid

    try:
        return Path(json.loads((folder / SOURCE).read_text(encoding="utf-8"))["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationInvalid(f"{folder} does not say where its dataset lies; name it with --dataset") from None
