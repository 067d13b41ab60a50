"""The `tandem` command line; it needs the extra [cli]."""

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from tandem.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name in ("typer", "rich", "grpc_health"):
            sys.exit('the command line needs more than the client library: pip install "tandem[cli]"')
        raise
    run()
