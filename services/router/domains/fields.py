"""Takes checked values out of a TOML table and collects what is wrong with them."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from tandem.errors import FieldViolation

T = TypeVar("T")
MAX_TEXT = 1024


class Fields:
    """Wraps a table; what is at fault becomes the default and is noted in `faults`, never raised."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = dict(values)
        self._known: list[str] = []
        self.faults: list[FieldViolation] = []

    def note(self, key: str, description: str) -> None:
        """Keeps a fault; the description completes "<key> ..."."""
        self.faults.append(FieldViolation(key, description))

    def text(self, key: str, default: str) -> str:
        """Returns a string without control characters."""
        value = self._take(key, default)
        if not isinstance(value, str) or len(value) > MAX_TEXT or any(ord(mark) < 32 for mark in value):
            self.note(key, f"must be one line of at most {MAX_TEXT:,} characters in quotes")
            return default
        return value

    def word(self, key: str, default: str, known: Collection[str]) -> str:
        """Returns one of the known words."""
        value = self._take(key, default)
        if isinstance(value, str) and value in known:
            return value
        shown = f'is "{value[:32]}"' if isinstance(value, str) else "is no word"
        self.note(key, f"{shown}; it is one of {', '.join(known)}")
        return default

    def number(self, key: str, default: T, low: float, high: float) -> float | T:
        """Returns a finite number of [low, high]."""
        value = self._take(key, None)
        if value is None:
            return default
        # Compared before it is made a float: an integer may be larger than all of those.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.note(key, f"must be a number from {low:,g} to {high:,g}")
            return default
        return float(value)

    def texts(self, key: str) -> frozenset[str]:
        """Returns a list of strings, none of them empty."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and 0 < len(one) <= MAX_TEXT for one in value):
            self.note(key, 'must be a list of words, for example ["halden"]')
            return frozenset()
        return frozenset(value)

    def table(self, key: str) -> Mapping[str, Any] | None:
        """Returns a table, None where there is none."""
        value = self._take(key, None)
        if value is not None and not isinstance(value, dict):
            self.note(key, f"must be a table: write [{key}] on a line of its own")
            return None
        return value

    def end(self) -> None:
        """Notes every key that nobody asked for."""
        for key in sorted(self._left):
            near = difflib.get_close_matches(key[:64], self._known, n=1)
            self.note(key[:64], "is not known" + (f"; did you mean {near[0]}?" if near else ""))

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        return self._left.pop(key, default)
