"""Finds the two columns of a page of text, so that each is read down before the other."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_GAP = 8.0  # points; wider than the space between words
_MIDDLE = (0.3, 0.7)  # of the page's width
_MIN_LINES = 6
_MIN_LENGTH = 25  # characters of a column's line on average: less is a table without rules, which is read across
_STEP = 2  # points

Line = dict[str, Any]


def in_order(lines: Sequence[Line], width: float) -> list[Line]:
    """Returns the lines in the order of reading; of those across two columns, each half is a line.

    What crosses the gutter ends both columns.
    """
    gutter = _gutter(lines, width)
    if gutter is None:
        return list(lines)
    ordered: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for line in lines:
        first, second = _halves(line, gutter)
        if first and second and not _apart(first, second):
            ordered += [*left, *right, line]
            left, right = [], []
            continue
        at = _after(line["text"], len(first))
        left += [{**line, "chars": first, "text": line["text"][:at].strip()}] if first else []
        right += [{**line, "chars": second, "text": line["text"][at:].strip()}] if second else []
    return [*ordered, *left, *right]


def _after(text: str, letters: int) -> int:
    """Returns where so many letters have passed, blanks not counted: a line's characters hold none."""
    for at, letter in enumerate(text):
        if letters == 0:
            return at
        letters -= not letter.isspace()
    return len(text)


def _gutter(lines: Sequence[Line], width: float) -> float | None:
    """Returns where the space between two columns is; it must be in most lines, with text enough on both sides."""
    votes: Counter[int] = Counter()
    for line in lines:
        shown = [char for char in line["chars"] if not char["text"].isspace()]
        for before, after in pairwise(shown):
            if after["x0"] - before["x1"] >= _GAP:
                votes.update(range(int(before["x1"]) // _STEP + 1, int(after["x0"]) // _STEP + 1))
    low, high = (int(share * width) // _STEP for share in _MIDDLE)
    best = max((place for place in votes if low <= place <= high), key=lambda place: votes[place], default=None)
    if best is None or votes[best] < max(_MIN_LINES, len(lines) // 3):
        return None
    gutter = float(best * _STEP)
    split = [halves for halves in (_halves(line, gutter) for line in lines) if all(halves) and _apart(*halves)]
    for side in (0, 1):
        if sum(len(halves[side]) for halves in split) < _MIN_LENGTH * len(split):
            return None
    return gutter


def _halves(line: Line, gutter: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shown = [char for char in line["chars"] if not char["text"].isspace()]
    left = [char for char in shown if char["x0"] + char["x1"] < 2 * gutter]
    return left, [char for char in shown if char["x0"] + char["x1"] >= 2 * gutter]


def _apart(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return bool(min(char["x0"] for char in right) - max(char["x1"] for char in left) >= _GAP)
