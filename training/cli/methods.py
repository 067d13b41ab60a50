"""`tandem train methods`: every setting of training."""

import typer
from rich.console import Console
from rich.table import Table

from training.cli.options import AsJson
from training.cli.output import print_json


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(methods)


def methods(as_json: AsJson = False) -> None:
    """List every setting of training with its meaning and default; give others with run --set NAME=VALUE."""
    from training.methods import Method

    defaults = Method().to_json()
    meanings = Method.describe()
    if as_json:
        print_json({name: {"default": defaults[name], "meaning": text} for name, text in meanings.items()})
        return
    table = Table("setting", "default", "meaning")
    for name, text in meanings.items():
        if name != "name":
            table.add_row(name, str(defaults[name]), text)
    Console(highlight=False).print(table)
