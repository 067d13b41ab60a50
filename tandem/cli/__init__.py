"""The `tandem` command line."""

from tandem.cli.app import main

__all__ = ["main"]
