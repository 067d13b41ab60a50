"""Command line of evaluation: `tandem evaluate`, or `python -m evaluation` with the same commands."""

from evaluation.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    from tandem.cli.app import run

    run(app)
