"""Command line of evaluation: one module for each command, which register() adds to the app."""

import typer

from evaluation.cli import arms, grounding, retrieval, scope

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure the running services on your own labelled data.",
)


@app.callback()
def _root() -> None:
    """Keeps the name of a command that is the only one."""


for _command in (retrieval, arms, grounding, scope):
    _command.register(app)

__all__ = ["app"]
