"""`tandem train run`: a dataset folder to a run folder."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli.options import (
    BASE,
    AsJson,
    Base,
    Device,
    Epochs,
    Method,
    Minutes,
    Rank,
    Rate,
    Seed,
    Settings,
    Threads,
    Tracking,
    method_settings,
)
from training.cli.output import Bars, console, print_json, telling

if TYPE_CHECKING:
    from training.gate import Evaluation
    from training.methods import Outcome, Progress, Run

SOURCE = "source.json"
"""Where the run's dataset lies, for the steps that come after."""


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(run)


def run(
    dataset: Annotated[Path, typer.Argument(help="Folder that `tandem train prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; it must be new, unless a run is resumed in it.")],
    method: Method = "lora",
    base: Base = BASE,
    device: Device = "cpu",
    threads: Threads = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    rank: Rank = None,
    seed: Seed = 17,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the run that was cut off.")
    ] = False,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Train on a dataset: low-rank adapter (lora), prefix (prefix) or all weights (full).

    Checkpoints are written every few minutes; a run that was killed goes on with --resume, to the same result. It
    stops early where the validation split gets no better. The same seed and machine give the same weights on a CPU.
    """
    with telling(as_json=as_json):
        given = {"epochs": epochs, "minutes": minutes, "learning_rate": learning_rate, "rank": rank, "seed": seed}
        do(
            dataset,
            out,
            name=method,
            given={**given, **method_settings(settings)},
            base=base,
            device=device,
            threads=threads,
            resume=resume,
            tracking=tracking,
            as_json=as_json,
        )


def do(
    dataset: Path,
    out: Path,
    *,
    name: str,
    given: dict[str, Any],
    base: Path,
    device: str,
    threads: int | None,
    resume: bool,
    tracking: str | None,
    as_json: bool,
) -> "Outcome":
    """Trains, writes the report, and tells what came out."""
    from tandem.config import mlflow_tracking_uri
    from training.examples import read_dataset
    from training.methods import Method as Chosen
    from training.methods import train
    from training.report import write_report

    data = read_dataset(dataset)
    method = Chosen.of(name, **given)
    with Bars() as bars:

        def hear(progress: "Progress") -> None:
            bars.update(
                "training", progress.step, progress.num_steps, note=_note(progress), left_s=progress.remaining_s
            )

        outcome = train(
            data,
            base=base,
            method=method,
            out=out,
            device=device,
            threads=threads,
            resume=resume,
            tracking=tracking or mlflow_tracking_uri(),
            on_progress=hear,
        )
    (outcome.run.folder / SOURCE).write_text(json.dumps({"dataset": str(dataset.resolve())}) + "\n", encoding="utf-8")
    page = write_report(outcome.run, _evaluated(outcome.run), data)
    _tell(outcome, page, as_json=as_json)
    return outcome


def _evaluated(run: "Run") -> "Evaluation | None":
    """Returns what is known of a finished run that was evaluated before."""
    from training.gate import EvaluationInvalid, read_evaluation

    try:
        found = read_evaluation(run.folder)
    except EvaluationInvalid:
        return None
    return found if found.about.get("weights_sha256") == run.result["weights_sha256"] else None


def _note(progress: "Progress") -> str:
    parts = [
        "" if math.isnan(progress.loss) else f"loss {progress.loss:.3f}",
        "" if progress.validation_loss is None else f"validation {progress.validation_loss:.3f}",
        "" if progress.validation_exact is None else f"{progress.validation_exact:.0%} word for word",
        f"{progress.tokens_per_second:.0f} tokens/s" if progress.step else "",
    ]
    return ", ".join(filter(None, parts))


def _tell(outcome: "Outcome", page: Path, *, as_json: bool) -> None:
    result, folder = outcome.run.result, outcome.run.folder
    if as_json:
        print_json({"run": str(folder), "report": str(page), **result})
        return
    console.print(
        f"{folder}: {result['steps']} steps, {result['tokens']:,} tokens, {result['minutes']} minutes, "
        f"{result['energy']['kwh']:.4f} kWh ({result['energy']['source']}); ended: {result['stopped']}",
        markup=False,
        soft_wrap=True,
    )
    before, after = result["validation_loss_before"], result["validation_loss"]
    if before is not None and after is not None:
        exact = f"{result['validation_exact']:.0%} of the validation answers word for word"
        console.print(f"validation loss {before:.3f} before, {after:.3f} after; {exact}", markup=False, soft_wrap=True)
    console.print(
        f"weights {outcome.weights}, sha256 {outcome.sha256[:12]}…; report {page}", markup=False, soft_wrap=True
    )
    console.print(f"next: tandem train evaluate {folder}", markup=False, soft_wrap=True)
