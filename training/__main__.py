"""Command line of training: `python -m training closed-book|reading --help`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tandem.config import cache_home
from training import recipes
from training.company import Company, read_company, read_rows
from training.loop import Plan
from training.loop import Progress as LoopProgress
from training.passages import reading_cases, tenant_chunks

CACHE = cache_home() / "models" / "smollm2-135m-instruct"
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
console = Console(stderr=True)

CompanyFolder = Annotated[Path, typer.Option("--company", help="Folder with manifest, facts and questions.")]
Tenant = Annotated[str, typer.Option(help="Whose facts; nothing of another tenant is read into the adapter.")]
Out = Annotated[Path, typer.Option(help="Folder that the adapter is written to.")]
Base = Annotated[Path, typer.Option(help="Base model in Hugging Face layout.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(help="Threads of the processor.", min=1)]
Epochs = Annotated[float | None, typer.Option(help="Passes over the examples.")]
Minutes = Annotated[float | None, typer.Option(help="Longest time to train; the learning rate winds down in time.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the adapter.", min=1, max=64)]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Highest learning rate.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the training record as JSON when done.")]
Seed = Annotated[int | None, typer.Option(help="Seed of order and initial weights.")]


@app.command("closed-book")
def closed_book(
    company: CompanyFolder = Path("examples/company"),
    tenant: Tenant = "halden",
    out: Out = Path("examples/company/adapters/halden/answers"),
    base: Base = CACHE,
    device: Device = "cpu",
    threads: Threads = 2,
    epochs: Epochs = None,
    minutes: Minutes = None,
    rank: Rank = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Teaches an adapter the tenant's open, static facts, so that it answers without passages."""
    run = recipes.Run(base=_base(base), out=out, device=device, threads=threads)
    plan = Plan(epochs=18, max_minutes=42, max_batch_tokens=2048, max_batch_rows=24)
    plan = recipes.scaled(plan, epochs=epochs, max_minutes=minutes, rank=rank, learning_rate=learning_rate, seed=seed)
    data = _company(company, tenant)
    model, tokenizer = recipes.load_base(run)
    _execute(run, model, tokenizer, recipes.closed_book_task(data, tokenizer), plan, data.hashes, as_json=as_json)


@app.command("reading")
def reading(
    company: CompanyFolder = Path("examples/company"),
    tenant: Tenant = "halden",
    out: Out = Path("examples/company/adapters/halden/reading"),
    base: Base = CACHE,
    device: Device = "cpu",
    threads: Threads = 2,
    epochs: Epochs = None,
    minutes: Minutes = None,
    rank: Rank = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    as_json: AsJson = False,
    max_held_out: Annotated[int, typer.Option(help="Most cases of each held-out split to measure on.")] = 150,
) -> None:
    """Teaches an adapter to answer briefly from passages, and to abstain where they do not hold the answer."""
    run = recipes.Run(base=_base(base), out=out, device=device, threads=threads)
    plan = Plan(epochs=2, max_minutes=24, rank=8, alpha=16, learning_rate=1e-3, max_batch_tokens=2560, max_batch_rows=6)
    plan = recipes.scaled(plan, epochs=epochs, max_minutes=minutes, rank=rank, learning_rate=learning_rate, seed=seed)
    data = _company(company, tenant)
    chunkings = [tenant_chunks(data, company, max_characters=size) for size in (450, 900)]
    cases = {"train": reading_cases(data.splits["train"], chunkings, seed=plan.seed, variants=3)}
    for split in ("calibration", "test"):
        rows = data.splits[split]
        cases[split] = reading_cases(rows[:: max(1, len(rows) // max_held_out)], chunkings, seed=plan.seed)
    model, tokenizer = recipes.load_base(run)
    _execute(run, model, tokenizer, recipes.reading_task(cases, tokenizer), plan, data.hashes, as_json=as_json)


def _base(base: Path) -> Path:
    folder = base.expanduser()
    if not (folder / "config.json").is_file():
        console.print(
            f"[red]There is no base model in {folder}.[/red] Run `python -m services.generator --prepare`, "
            "or name a model folder with --base."
        )
        raise typer.Exit(2)
    return folder


def _company(folder: Path, tenant: str) -> Company:
    try:
        data = read_company(folder, tenant)
    except FileNotFoundError as error:
        console.print(f"[red]{error.filename} is missing.[/red]")
        raise typer.Exit(2) from None
    if not data.facts:
        tenants = sorted({row["tenant"] for row in read_rows(folder / "manifest.jsonl")})
        console.print(f"[red]No open, static facts of tenant {tenant}.[/red] Tenants: {', '.join(tenants)}.")
        raise typer.Exit(2)
    return data


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=1) as bar:
        yield bar


def _execute(
    run: recipes.Run,
    model: Any,
    tokenizer: Any,
    task: recipes.Task,
    plan: Plan,
    hashes: dict[str, str],
    *,
    as_json: bool,
) -> None:
    held_out = {split: len(cases) for split, cases in task.held_out.items()}
    console.print(f"{task.recipe}: {len(task.examples)} examples, held out: {held_out}, at most {plan.max_minutes} min")
    with _bar() as bar:
        training = bar.add_task("training", total=None, note="")
        measuring: dict[str, Any] = {}

        def on_step(progress: LoopProgress) -> None:
            note = f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} tokens/s"
            bar.update(training, total=progress.num_steps, completed=progress.step, note=note)
            if not console.is_terminal and progress.step % 25 == 0:
                console.print(f"step {progress.step}/{progress.num_steps}, {note}")

        def on_evaluate(name: str, total: int, done: int) -> None:
            if name not in measuring:
                measuring[name] = bar.add_task(name, total=total, note="")
            bar.update(measuring[name], completed=done)

        record = recipes.execute(
            run, model, tokenizer, task, plan, data_hashes=hashes, on_step=on_step, on_evaluate=on_evaluate
        )
    if as_json:
        print(json.dumps(record, ensure_ascii=False, indent=1))
    console.print(_table(record))
    console.print(f"Written to {run.out}: {record['steps']} steps in {record['minutes']} minutes.")


def _table(record: dict[str, Any]) -> Table:
    table = Table("split", "who", "EM %", "F1 %", "cases", title=record["recipe"])
    for split, row in record["scores"].items():
        for who, score in row.items():
            table.add_row(split, who, str(score["exact_match"]), str(score["f1"]), str(score["count"]))
    return table


if __name__ == "__main__":
    app()
