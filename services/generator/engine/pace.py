"""How many prompt tokens a step may read while others wait for their next token.

A step takes about base(rows) + fixed + cost * tokens: base is what the rows
that decode take without any prompt, fixed what any prompt tokens at all add,
cost what each of them adds. All are medians of the last measurements, so a
step that stalled for seconds moves none. The budget is what stretches the
base by the allowed factor, or by more where those who wait for their first
token outweigh those who wait for their next: the shorter a prompt, the less
it costs the others, and the more it counts. So a long prompt is read in small
pieces beside running streams, and a short one almost at once.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median_low

_WINDOW = 15
_PROBE_EVERY = 64
_MIN_PROBES = 3
"""So many measurements are believed: fewer might all be stalls."""

_REACH = 1600
"""A prompt of _REACH / n tokens weighs as much as n * n rows that decode."""

_MIN_SAMPLE = 8
"""Fewer tokens than this tell more about the clock than about their cost."""
_LARGE = 64
"""So many tell what each of them costs; fewer, what it costs that there are any."""


class _Median:
    """Is the median of the last measurements."""

    __slots__ = ("_last", "value")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_WINDOW)
        self.value: float | None = None

    @property
    def count(self) -> int:
        """Returns how many measurements there are."""
        return len(self._last)

    def add(self, value: float) -> None:
        """Takes a measurement."""
        self._last.append(value)
        self.value = median_low(self._last)


class Pace:
    """Learns what steps cost from their durations, and bounds the prompt tokens of the next one."""

    def __init__(self, *, max_tokens: int, min_tokens: int, max_stretch: float) -> None:
        self._max_tokens = max_tokens
        self._min_tokens = min(min_tokens, max_tokens)
        self._stretch = max_stretch - 1.0
        self._bases: dict[int, _Median] = {}
        self._cost = _Median()
        self._fixed = _Median()
        self._unprobed: dict[int, int] = {}

    def budget(self, rows: int, *, waiting: Iterable[int] = ()) -> int:
        """Returns the prompt tokens that a step with so many decoding rows may read; waiting are the prompts' lengths.

        Now and then, and before enough is known about such a step, it is 0:
        steps without prompts show what the rows alone take.
        """
        if not rows:
            return self._max_tokens
        size = rows.bit_length()
        base = self._bases.get(size)
        if base is None or base.value is None or base.count < _MIN_PROBES or self._unprobed[size] >= _PROBE_EVERY:
            return 0
        if self._cost.value is None:
            return self._min_tokens
        weight = sum((_REACH / length) ** 2 for length in waiting)
        spare = base.value * self._stretch * max(1.0, (weight / rows) ** 2) - (self._fixed.value or 0.0)
        if spare <= 0:  # before the division: tokens may have been measured to cost nothing
            return self._min_tokens
        if self._cost.value * self._max_tokens <= spare:
            return self._max_tokens
        return max(self._min_tokens, int(spare / self._cost.value))

    def observe(self, *, rows: int, tokens: int, seconds: float) -> None:
        """Takes the duration of a step that decoded `rows` and read `tokens` of prompts."""
        size = rows.bit_length()
        if not tokens:
            self._bases.setdefault(size, _Median()).add(seconds)
            self._unprobed[size] = 0
            return
        if rows:
            self._unprobed[size] = self._unprobed.get(size, 0) + 1
        if tokens < _MIN_SAMPLE:
            return
        known = self._bases.get(max(size, 1))
        base = known.value if known is not None and known.value is not None else 0.0
        added = max(0.0, seconds - base)
        if tokens >= _LARGE or self._cost.value is None:
            self._cost.add(added / tokens)
        if rows and self._cost.value is not None:
            self._fixed.add(max(0.0, added - self._cost.value * tokens))
