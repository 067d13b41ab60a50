"""Writes a report as one HTML file, its plots drawn in."""

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from tandem.scoring import Interval


def write_page(path: Path, *, package: str, template: str, **values: Any) -> Path:
    """Writes the template of a package, which extends layout.html.jinja, in one step and returns the path.

    The layout wants `title` and `subtitle`. Templates have the filters `interval` and `gain`.
    """
    # Questions, answers and documents are strangers' text: everything but our own plots is escaped.
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("tandem.report", ".")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"interval": _interval, "gain": _gain}
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(environment.get_template(template).render(values), encoding="utf-8")
    scratch.replace(path)
    return path


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _gain(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
