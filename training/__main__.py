"""Command line of training: `tandem train`, or `python -m training` with the same commands."""

from training.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
