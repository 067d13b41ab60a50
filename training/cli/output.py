"""How the steps speak: errors in one piece, progress with the time left, tables at the end."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from tandem.adapters import AdapterRefused
from tandem.cli.progress import Bars, console
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from training.gate import Evaluation

__all__ = ["REJECTED", "Bars", "console", "print_json", "tell_verdict", "telling", "told_arms"]
REJECTED = 3
"""Exit status where the gate rejects a candidate."""


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
