"""`tandem train`: from files to a signed adapter, in four steps or in one."""

import typer

from training.cli import all_steps, evaluate, methods, prepare, register, run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make an adapter from your own examples, and let it into the registry only if it is better.\n\n"
    "prepare checks your files and splits them; run trains; evaluate compares base, candidate and the adapter in use, "
    "with intervals; register signs the candidate, or keeps it as rejected with its reasons. `all` does the four.\n\n"
    "Start with: tandem train all FILE --recipe closed-book --tenant TENANT --name NAME --out FOLDER",
)
for _module in (prepare, run, evaluate, register, all_steps, methods):
    _module.add_to(app)

__all__ = ["app"]
