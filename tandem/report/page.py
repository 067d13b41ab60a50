"""Writes a report as one HTML file, its plots drawn in, and its figures as JSON."""

import json
from collections.abc import Mapping
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
    return _whole(path, environment.get_template(template).render(values))


def write_data(path: Path, figures: Mapping[str, Any]) -> Path:
    """Writes figures for programs in one step, its folder too, and returns the path; raises ValueError for a NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _whole(path, json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _whole(path: Path, text: str) -> Path:
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
    return path


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _gain(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
