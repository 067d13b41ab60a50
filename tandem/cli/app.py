"""The root of the command line: its own commands, and those that other packages bring by entry point."""

import sys
from importlib.metadata import entry_points

import typer

from tandem.cli import (
    adapters,
    advise,
    ask,
    audit,
    documents,
    domains,
    feedback,
    jobs,
    keys,
    models,
    search,
    snapshots,
    tokens,
    up,
)
from tandem.cli.output import fail
from tandem.errors import ConfigError, TandemError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Answer an enterprise's questions from a fine-tuned model, from retrieved evidence, or from both.\n\n"
    "Start with `tandem up`, then `tandem ingest FOLDER` and `tandem ask QUESTION`. Every command takes --json.",
)
up.register(app)
ask.register(app)
domains.register(app)
advise.register(app)
documents.register(app)
search.register(app)
models.register(app)
app.add_typer(adapters.app, name="adapters")
app.add_typer(audit.app, name="audit")
app.add_typer(feedback.app, name="feedback")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(tokens.app, name="tokens")
for _entry in entry_points(group="tandem.commands"):
    # Loading may import torch, which takes seconds: only the command that was named pays for that.
    if sys.argv[1:2] == [_entry.name]:
        app.add_typer(_entry.load(), name=_entry.name)
    else:
        app.command(_entry.name, help=f"See `tandem {_entry.name} --help`.")(lambda: None)


def main() -> None:
    """Runs the command line."""
    run(app)


def run(commands: typer.Typer) -> None:
    """Runs commands; failures become one readable line and exit status 1."""
    try:
        commands()
    except (TandemError, ConfigError) as error:
        fail(error, as_json="--json" in sys.argv)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
