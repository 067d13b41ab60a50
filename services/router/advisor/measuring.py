"""How wide text is when nobody says which font it will be set in: reckoned for DejaVu Sans, the widest common one."""

_CLASSES = {0.32: " ijlIJ.,·'", 0.42: "!()[]-/:;|frt", 0.79: "ABCDEFGHKLNOPQRSTUVXYZ&", 1.0: "mwMW@%→<>=+#~"}
_OTHERS = 0.64
"""Upper bounds of the widths of characters as a share of the font's size, read off the font."""
_BOLD = 1.14
_WIDTHS = {mark: width for width, marks in _CLASSES.items() for mark in marks}


def width_of(text: str, *, size: float, bold: bool = False) -> float:
    """Returns how wide a text is at most, in the unit of its size."""
    return size * (_BOLD if bold else 1.0) * sum(_WIDTHS.get(mark, _OTHERS) for mark in text)


def lines_of(text: str, *, width: float, size: float, bold: bool = False) -> list[str]:
    """Returns a text broken between words into lines that fit a width; a word too long for a line is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and width_of(f"{lines[-1]} {word}", size=size, bold=bold) <= width:
            lines[-1] += f" {word}"
            continue
        while width_of(word, size=size, bold=bold) > width and len(word) > 1:
            fitting = _fitting(word, width=width, size=size, bold=bold)
            lines.append(word[:fitting])
            word = word[fitting:]
        lines.append(word)
    return lines


def _fitting(word: str, *, width: float, size: float, bold: bool) -> int:
    """Returns how many characters of a word fit, one at the least."""
    length = 1
    while length < len(word) and width_of(word[: length + 1], size=size, bold=bold) <= width:
        length += 1
    return length
