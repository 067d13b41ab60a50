"""How the steps speak: errors in one piece, progress with the time left, tables at the end."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tandem.adapters import AdapterRefused
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from training.gate import Evaluation

REJECTED = 3
"""Exit status where the gate rejects a candidate."""
console = Console(stderr=True, highlight=False)
_QUIET_S = 15.0


@contextlib.contextmanager
def telling(*, as_json: bool) -> Iterator[None]:
    """Turns what a user can mend into a message and exit status 1; a bug stays a traceback."""
    try:
        yield
    except (ValueError, OSError, AdapterRefused, ConfigError) as error:
        if not isinstance(error, _expected()):
            raise
        message = _message(error)
        if as_json:
            print(json.dumps({"error": {"code": type(error).__name__, "message": message}}, ensure_ascii=False))
        else:
            console.print("[bold red]Not done[/]", end=" ")
            console.print(message, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _expected() -> tuple[type[Exception], ...]:
    # Imported here: these bring torch, which takes seconds, and without an error nobody needs them.
    from training.company import CompanyInvalid
    from training.data import DataRejected
    from training.examples import DatasetInvalid
    from training.gate import EvaluationInvalid
    from training.methods import MethodError
    from training.recipes import RecipeInvalid
    from training.registering import RegistryError

    known = (CompanyInvalid, DataRejected, DatasetInvalid, EvaluationInvalid, MethodError, RecipeInvalid)
    return (*known, RegistryError, AdapterRefused, ConfigError, OSError)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


class Bars:
    """Shows how far the parts of a step are: bars in a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._told = time.monotonic()

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, what: str, done: int, total: int, *, note: str = "", left_s: float | None = None) -> None:
        """Says how much of a part is done; left_s is the time left where the caller knows it better."""
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        if left_s is None and 0 < done < total:
            left_s = (now - started) * (total - done) / done
        told = ", ".join(filter(None, (note, f"{_span(left_s)} left" if left_s and done < total else "")))
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note=told)
        self._progress.update(self._tasks[what], completed=done, total=total, note=told)
        if not console.is_terminal and (now - self._told > _QUIET_S or done == total > 1):
            self._told = now
            console.print(f"{what}: {done}/{total}" + (f", {told}" if told else ""), markup=False, soft_wrap=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def told_arms(evaluation: "Evaluation") -> Table:
    """Returns the arms with their intervals as a table."""
    metrics = list(dict.fromkeys(name for arm in evaluation.arms.values() for name in arm.metrics))
    title = f"{evaluation.num_questions} test questions in {evaluation.num_groups} groups, 95 % intervals"
    table = Table("arm", "prompt", *metrics, f"gain in {evaluation.metric}", title=title)
    for name, arm in evaluation.arms.items():
        cells = [
            f"{i.value:.3f} [{i.low:.2f}, {i.high:.2f}]" if (i := arm.metrics.get(metric)) else "" for metric in metrics
        ]
        gain = evaluation.gains.get(name)
        told = f"{gain.value:+.3f} [{gain.low:+.2f}, {gain.high:+.2f}]" if gain else "candidate"
        table.add_row(name, arm.prompt, *(cell.replace("[", r"\[") for cell in cells), told.replace("[", r"\["))
    return table


def tell_verdict(evaluation: "Evaluation") -> None:
    """Prints the gate's decision with its reasons."""
    accepted = evaluation.verdict.accepted
    console.print("[bold green]Accepted[/]" if accepted else "[bold red]Rejected[/]")
    for reason in evaluation.verdict.reasons:
        console.print(f"  {reason}", markup=False, soft_wrap=True)


def print_json(row: dict[str, Any]) -> None:
    """Prints one JSON document to standard output."""
    json.dump(row, sys.stdout, ensure_ascii=False, indent=1)
    print()
