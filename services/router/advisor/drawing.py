"""Draws the tree as an SVG of one A4 page, landscape: questions, "yes" to the right, "no" downwards, the path bold.

Lengths are millimetres. Nothing rests on colour alone, so that a grey print says the same. The same advice gives
the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from services.router.advisor.deciding import NAMES
from services.router.advisor.framework import Framework, FrameworkFault, Leaf, Question
from services.router.advisor.measuring import lines_of
from services.router.domain.advice import Advice, Factor

PAGE_WIDTH, PAGE_HEIGHT, MARGIN = 297.0, 210.0, 10.0
TEXT, SMALL, TITLE = 2.9, 2.5, 4.6
_PANEL = 80.0
_TOP, _BOTTOM = 25.0, 11.0
_GAP_X, _GAP_Y, _PAD = 11.0, 3.3, 2.0
_LEADING = 1.25
_MAX_COLUMNS, _MAX_ROWS = 4, 13
_INK, _SOFT, _FILL, _LEAF = "#1f2933", "#7b8794", "#dcebf5", "#f1f5f8"


@dataclass(frozen=True)
class Box:
    """Is where a node stands."""

    node: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class _Line:
    """Is a line of text before it is broken; `after` is the room that follows it."""

    text: str
    size: float
    bold: bool
    indent: float = 0.0
    after: float = 0.0


def draw(framework: Framework, advice: Advice | None = None) -> str:
    """Returns the picture, with the path and the votes of an advice where one is given.

    Raises FrameworkFault where the tree is too large to be read on one page.
    """
    boxes = layout(framework)
    taken = _taken(framework, advice)
    parts = [
        *_header(advice),
        *(line for node in boxes for line in _edges(framework, boxes, node, taken)),
        *(line for box in boxes.values() for line in _node(framework, box, box.node in taken)),
        *_panel(advice),
        *_footer(),
    ]
    frame = f'width="{PAGE_WIDTH:g}mm" height="{PAGE_HEIGHT:g}mm" viewBox="0 0 {PAGE_WIDTH:g} {PAGE_HEIGHT:g}"'
    font = "font-family=\"'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif\""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {frame} {font} role="img">',
            f"<title>{escape(_title(advice))}</title>",
            f'<rect width="{PAGE_WIDTH:g}" height="{PAGE_HEIGHT:g}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def layout(framework: Framework) -> dict[str, Box]:
    """Returns the place of every node; raises FrameworkFault where they do not fit one page."""
    places = dict(_places(framework, framework.root, 0, 0))
    columns, rows = (1 + max(place[at] for place in places.values()) for at in (0, 1))
    if columns > _MAX_COLUMNS or rows > _MAX_ROWS:
        raise FrameworkFault(
            "questions",
            f"{columns} columns and {rows} rows do not fit a page of {_MAX_COLUMNS} and {_MAX_ROWS}: "
            "a question takes a row, and so does what follows a no; what follows a yes takes a column",
        )
    width = (PAGE_WIDTH - 2 * MARGIN - _PANEL - _GAP_X * columns) / columns
    pitch = (PAGE_HEIGHT - _TOP - _BOTTOM) / rows
    return {
        node: Box(node, MARGIN + column * (width + _GAP_X), _TOP + row * pitch, width, pitch - _GAP_Y)
        for node, (column, row) in places.items()
    }


def _places(framework: Framework, node: str, column: int, row: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields column and row of a node and of all below it: a yes to the right, a no under all that follow the yes."""
    yield node, (column, row)
    if node in framework.questions:
        question = framework.questions[node]
        below = list(_places(framework, question.yes, column + 1, row))
        yield from below
        yield from _places(framework, question.no, column, 1 + max(place[1] for _, place in below))


def _taken(framework: Framework, advice: Advice | None) -> frozenset[str]:
    if advice is None:
        return frozenset()
    return frozenset({advice.leaf, *(step.question_id for step in advice.path)})


def _edges(framework: Framework, boxes: dict[str, Box], node: str, taken: frozenset[str]) -> Iterator[str]:
    question = framework.questions.get(node)
    if question is None:
        return
    start, right, below = boxes[node], boxes[question.yes], boxes[question.no]
    middle = start.y + start.height / 2
    yield from _arrow((start.x + start.width, middle), (right.x, middle), "yes", {node, right.node} <= taken)
    down = start.x + 7
    yield from _arrow((down, start.y + start.height), (down, below.y), "no", {node, below.node} <= taken)


def _arrow(start: tuple[float, float], end: tuple[float, float], label: str, bold: bool) -> Iterator[str]:
    colour, stroke, head = (_INK, 0.9, 2.2) if bold else (_SOFT, 0.3, 1.5)
    (x, y), (to_x, to_y) = start, end
    across = y == to_y
    tip = [(-head, -head / 2), (-head, head / 2)] if across else [(-head / 2, -head), (head / 2, -head)]
    stop = (to_x - head, to_y) if across else (to_x, to_y - head)
    points = " ".join(f"{to_x + dx:.2f},{to_y + dy:.2f}" for dx, dy in ((0, 0), *tip))
    line = f'x1="{x:.2f}" y1="{y:.2f}" x2="{stop[0]:.2f}" y2="{stop[1]:.2f}"'
    yield f'<line {line} stroke="{colour}" stroke-width="{stroke}"/>'
    yield f'<polygon points="{points}" fill="{colour}"/>'
    at = ((x + to_x) / 2 - 1, y - 1.5) if across else (x + 4.6, min(y + 2.7, to_y - 0.5))
    yield _text(*at, label, size=SMALL, bold=bold, anchor="middle")


def _node(framework: Framework, box: Box, taken: bool) -> Iterator[str]:
    node: Question | Leaf = framework.questions.get(box.node) or framework.leaves[box.node]
    leaf = isinstance(node, Leaf)
    stroke, fill = (0.9 if taken else 0.3), (_FILL if taken else _LEAF if leaf else "#ffffff")
    yield (
        f'<rect x="{box.x:.2f}" y="{box.y:.2f}" width="{box.width:.2f}" height="{box.height:.2f}" '
        f'rx="{3.5 if leaf else 0.8}" fill="{fill}" stroke="{_INK if taken else _SOFT}" stroke-width="{stroke}"/>'
    )
    head = f"{NAMES[node.approach]}: {node.pattern}" if isinstance(node, Leaf) else node.ask
    width = box.width - 2 * _PAD
    rows = [_Line(line, TEXT, True) for line in lines_of(head, width=width, size=TEXT, bold=True)]
    if isinstance(node, Leaf):
        rows += [_Line(line, SMALL, False) for line in lines_of(node.reason, width=width, size=SMALL)]
    height = sum(row.size * _LEADING for row in rows)
    if height > box.height - 1.0:
        raise FrameworkFault(box.node, f"{len(rows)} lines do not fit its box: say it in fewer words")
    y = box.y + (box.height - height) / 2
    for row in rows:
        y += row.size * _LEADING
        yield _text(box.x + _PAD, y - 0.3 * row.size, row.text, size=row.size, bold=row.bold and (leaf or taken))


def _header(advice: Advice | None) -> Iterator[str]:
    yield _text(MARGIN, 14, _title(advice), size=TITLE, bold=True)
    below = "Yes leads to the right, no leads down." if advice is None else advice.reason
    yield _text(MARGIN, 20, below, size=TEXT + 0.3)


def _panel(advice: Advice | None) -> Iterator[str]:
    """Yields the votes of an advice, what speaks against it and what would change it, right of the tree."""
    if advice is None:
        return
    x, y = PAGE_WIDTH - MARGIN - _PANEL, _TOP + TEXT
    rows = list(_said(advice))
    for place, row in enumerate(rows):
        lines = lines_of(row.text, width=_PANEL - row.indent, size=row.size, bold=row.bold)
        if y + (len(lines) + 1) * row.size * _LEADING > PAGE_HEIGHT - _BOTTOM:
            yield _text(x, y, f"and {len(rows) - place} lines more", size=SMALL)
            return
        for line in lines:
            yield _text(x + row.indent, y, line, size=row.size, bold=row.bold)
            y += row.size * _LEADING
        y += row.after


def _said(advice: Advice) -> Iterator[_Line]:
    yield _Line("Votes", TEXT, True)
    for vote in advice.votes:
        voice = "any" if vote.approach is None else NAMES[vote.approach]
        yield _Line(f"{_name(vote.factor)}: {voice}, weight {vote.weight}", SMALL, vote.approach is not None)
        yield _Line(f"{vote.value}; threshold: {vote.threshold}", SMALL, False, indent=3, after=0.8)
    sums = ", ".join(f"{NAMES[approach]} {weight}" for approach, weight in advice.tally.items())
    yield _Line(f"Cast: {sums}; open {advice.open_weight}", SMALL, True, after=3)
    if advice.contradictions:
        yield _Line("Measured against it", TEXT, True)
    for found in advice.contradictions:
        yield _Line(found.text, SMALL, False, after=3 if found is advice.contradictions[-1] else 0.8)
    yield _Line("What single change would flip it", TEXT, True)
    for flip in advice.flips:
        change = f"{_name(flip.factor)}: {flip.changed} instead of {flip.declared}"
        yield _Line(f"{change} → {NAMES[flip.approach]}: {flip.pattern}", SMALL, False, after=0.8)
    if not advice.flips:
        yield _Line("none", SMALL, False)


def _name(factor: Factor) -> str:
    return factor.replace("_", " ")


def _footer() -> Iterator[str]:
    text = "Square boxes ask, round ones advise; thick lines and shaded boxes are the path taken."
    more = "A question about votes compares the sums of the weights that were cast."
    yield _text(MARGIN, PAGE_HEIGHT - 6, f"{text} {more}", size=SMALL)


def _title(advice: Advice | None) -> str:
    if advice is None:
        return "Retrieval, fine-tuning or both: how Tandem decides"
    return f"Advice: {NAMES[advice.approach]}, by the policy {advice.pattern}"


def _text(x: float, y: float, text: str, *, size: float, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}"{weight}{where} fill="{_INK}">{escape(text)}</text>'
