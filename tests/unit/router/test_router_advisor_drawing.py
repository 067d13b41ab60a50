"""The picture of the tree: all of it on the page, nothing over anything else, the path told apart without colour."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from PIL import ImageFont

from services.router.advisor import Advisor, FrameworkFault, draw, read
from services.router.advisor.drawing import MARGIN, PAGE_HEIGHT, PAGE_WIDTH, layout
from services.router.advisor.measuring import lines_of, width_of
from services.router.advisor.reading import SHIPPED
from services.router.domain.advice import Advice, Profile
from tests.fakes.advice import COSTS, PROFILES, changed, profile

FRAMEWORK = read()
ADVISOR = Advisor(FRAMEWORK)
SVG = "{http://www.w3.org/2000/svg}"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LONGEST = profile(
    data_volatility="quarterly",
    compliance="audit",
    explainability="useful",
    latency_limit_ms=180,
    questions_per_month=10**12,
    costs=COSTS,
)


def advised(one: Profile = LONGEST) -> Advice:
    return ADVISOR.advise(one, changed(14))


def parts(picture: str, kind: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture).iter(f"{SVG}{kind}"))


def measured(text: ElementTree.Element) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of a text as DejaVu Sans sets it."""
    bold = "-Bold" if text.get("font-weight") else ""
    size, x, y = (float(text.get(key, "0")) for key in ("font-size", "x", "y"))
    font = ImageFont.truetype(str(FONTS / f"DejaVuSans{bold}.ttf"), 1000)
    width = font.getlength(text.text or "") * size / 1000
    left = x - width / 2 if text.get("text-anchor") == "middle" else x
    return left, y - 0.76 * size, left + width, y + 0.24 * size


def test_it_is_one_page_of_a4_and_well_formed() -> None:
    root = ElementTree.fromstring(draw(FRAMEWORK, advised()))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("297mm", "210mm", "0 0 297 210")


def test_boxes_stand_apart_on_the_page() -> None:
    boxes = list(layout(FRAMEWORK).values())
    assert len(boxes) == len(FRAMEWORK.questions) + len(FRAMEWORK.leaves)
    for box in boxes:
        assert box.x >= MARGIN
        assert box.x + box.width <= PAGE_WIDTH - MARGIN
        assert box.y >= MARGIN
        assert box.y + box.height <= PAGE_HEIGHT - MARGIN
    for one, other in combinations(boxes, 2):
        apart_x = one.x + one.width < other.x or other.x + other.width < one.x
        apart_y = one.y + one.height < other.y or other.y + other.height < one.y
        assert apart_x or apart_y, (one.node, other.node)


@pytest.mark.parametrize("one", [None, LONGEST, profile(data_volatility="weekly"), profile(compliance="audit")])
def test_every_text_is_on_the_page_and_over_no_other(one: Profile | None) -> None:
    picture = draw(FRAMEWORK, None if one is None else advised(one))
    places = [(text.text, measured(text)) for text in parts(picture, "text")]
    for text, (left, top, right, bottom) in places:
        assert left >= MARGIN / 2, text
        assert right <= PAGE_WIDTH - MARGIN / 2, text
        assert top >= MARGIN / 2, text
        assert bottom <= PAGE_HEIGHT - 3, text
    for (text, a), (other, b) in combinations(places, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (text, other)


@pytest.mark.parametrize("one", [None, LONGEST])
def test_every_text_is_inside_its_box_and_large_enough_to_read(one: Profile | None) -> None:
    picture = draw(FRAMEWORK, None if one is None else advised(one))
    boxes = list(layout(FRAMEWORK).values())
    for text in parts(picture, "text"):
        assert float(text.get("font-size", "0")) >= 2.4  # 6.8 points
        left, top, right, bottom = measured(text)
        within = [
            box for box in boxes if box.x < left < box.x + box.width and box.y < (top + bottom) / 2 < box.y + box.height
        ]
        for box in within:
            assert right <= box.x + box.width - 0.5, text.text
            assert top >= box.y, text.text
            assert bottom <= box.y + box.height, text.text


def test_the_path_is_told_by_thickness_and_its_lines_lead_from_box_to_box() -> None:
    advice = advised()
    picture = draw(FRAMEWORK, advice)
    thick = [part for part in parts(picture, "rect") if part.get("stroke-width") == "0.9"]
    assert len(thick) == len(advice.path) + 1
    lines = [part for part in parts(picture, "line") if part.get("stroke-width") == "0.9"]
    assert len(lines) == len(advice.path)
    labels = [text.text for text in parts(picture, "text") if text.get("font-weight") and text.text in ("yes", "no")]
    assert labels == ["yes" if step.yes else "no" for step in advice.path]
    plain = draw(FRAMEWORK)
    assert 'stroke-width="0.9"' not in plain
    assert plain.count(">yes<") == plain.count(">no<") == len(FRAMEWORK.questions)


def test_votes_contradictions_and_flips_stand_beside_the_tree() -> None:
    said = " ".join(text.text or "" for text in parts(draw(FRAMEWORK, advised()), "text"))
    for words in ("Votes", "latency: fine-tuning, weight 2", "14 documents changed this week", "What single change"):
        assert words in said


@settings(max_examples=40, deadline=None)
@given(PROFILES)
def test_any_advice_can_be_drawn_and_the_same_way_again(one: Profile) -> None:
    advice = ADVISOR.advise(one)
    picture = draw(FRAMEWORK, advice)
    assert picture == draw(FRAMEWORK, ADVISOR.advise(one))
    ElementTree.fromstring(picture)
    assert len(picture.encode()) < 256 * 1024


def test_markup_in_a_framework_is_text(tmp_path: Path) -> None:
    file = tmp_path / "framework.toml"
    file.write_text(SHIPPED.read_text().replace("Is the limit 200 ms or less?", "Is <b> & 'less'?"))
    assert "Is <b> & 'less'?" in [text.text for text in parts(draw(read(file)), "text")]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "framework.toml"
    file.write_text(SHIPPED.read_text().replace("Is the limit 200 ms or less?", "Is it so? " * 20))
    with pytest.raises(FrameworkFault, match="fewer words"):
        draw(read(file))


def test_widths_are_never_underrated() -> None:
    texts = [leaf.reason for leaf in FRAMEWORK.leaves.values()] + [one.ask for one in FRAMEWORK.questions.values()]
    for name, bold in (("DejaVuSans", False), ("DejaVuSans-Bold", True)):
        font = ImageFont.truetype(str(FONTS / f"{name}.ttf"), 1000)
        for text in texts:
            assert font.getlength(text) / 1000 <= width_of(text, size=1.0, bold=bold), text


def test_lines_keep_every_word_and_cut_what_is_too_long() -> None:
    text = "a word and an unbelievablylongword that must be cut"
    lines = lines_of(text, width=10, size=1.0)
    assert all(width_of(line, size=1.0) <= 10 for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == text.replace(" ", "")
