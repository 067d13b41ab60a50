"""Command line of evaluation: `tandem evaluate`, or `python -m evaluation` with the same commands."""

import sys

from evaluation.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    from tandem.cli.app import run

    sys.exit(run(app))
