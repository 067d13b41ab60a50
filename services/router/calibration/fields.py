"""Takes checked values out of a JSON object, and names the place of what is wrong."""

import math
import re
from typing import Any

from services.router.domain.calibration import CalibrationInvalid

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """Wraps one object of the document; every method raises CalibrationInvalid with the path of the value."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values = values
        self.path = path or "the file"
        self._prefix = f"{path}." if path else ""

    def only(self, names: str) -> None:
        """Refuses an object with other keys than these, separated by blanks."""
        wanted, found = set(names.split()), set(self._values)
        if wanted != found:
            odd = ", ".join(sorted(wanted ^ found))
            raise CalibrationInvalid(f"{self.path}: exactly {', '.join(sorted(wanted))} belong there; check {odd}")

    def number(self, name: str, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> float:
        """Returns a finite number of [low, high] that is more than `above`."""
        return self._number(self._values[name], name, low=low, high=high, above=above)

    def optional(self, name: str, *, low: float, high: float) -> float | None:
        """Returns a number, or None where the file says null."""
        return None if self._values[name] is None else self.number(name, low=low, high=high)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Returns a list of finite numbers."""
        return tuple(self._number(value, f"{name}[{place}]") for place, value in enumerate(self._list(name)))

    def count(self, name: str, *, least: int = 0, most: int | None = None) -> int:
        """Returns a whole number of [least, most]."""
        value = self._values[name]
        if type(value) is not int or value < least or (most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise CalibrationInvalid(f"{self._prefix}{name}: {value!r} is not a whole number of {bounds}")
        return value

    def text(self, name: str, *, empty: bool = False) -> str:
        """Returns a string, which may be empty only where that is allowed."""
        value = self._values[name]
        if not isinstance(value, str) or not (value or empty):
            raise CalibrationInvalid(f"{self._prefix}{name}: a string is needed")
        return value

    def sha256(self, name: str) -> str:
        """Returns a SHA-256 in lower-case hexadecimal."""
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise CalibrationInvalid(f"{self._prefix}{name}: {value[:70]!r} is no SHA-256 in lower-case hexadecimal")
        return value

    def need(self, name: str) -> "Fields":
        """Returns an object."""
        value = self._values[name]
        if not isinstance(value, dict):
            raise CalibrationInvalid(f"{self._prefix}{name}: an object is needed")
        return Fields(value, f"{self._prefix}{name}")

    def part(self, name: str) -> "Fields | None":
        """Returns an object, or None where the file says null."""
        return None if self._values[name] is None else self.need(name)

    def parts(self, name: str) -> list["Fields"]:
        """Returns a list of objects."""
        found = []
        for place, value in enumerate(self._list(name)):
            if not isinstance(value, dict):
                raise CalibrationInvalid(f"{self._prefix}{name}[{place}]: an object is needed")
            found.append(Fields(value, f"{self._prefix}{name}[{place}]"))
        return found

    def _list(self, name: str) -> list[Any]:
        value = self._values[name]
        if not isinstance(value, list):
            raise CalibrationInvalid(f"{self._prefix}{name}: a list is needed")
        return value

    def _number(
        self, value: Any, name: str, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf
    ) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise CalibrationInvalid(f"{self._prefix}{name}: {str(value)[:40]} is not a number; fit it anew")
        if not low <= value <= high or value <= above:
            bounds = f"more than {above:g}" if value <= above else f"{low:g} to {high:g}"
            raise CalibrationInvalid(f"{self._prefix}{name}: {value} is not {bounds}")
        return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
