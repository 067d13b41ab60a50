import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.domain import Block, Kind, dump_outline, load_outline


@st.composite
def outlines(draw: st.DrawFn) -> tuple[Block, ...]:
    blocks, at = [], 0
    for _ in range(draw(st.integers(0, 8))):
        start = at + draw(st.integers(0, 5))
        at = start + draw(st.integers(0, 50))
        kind, page = draw(st.sampled_from(list(Kind))), draw(st.none() | st.integers(1, 9))
        level, title = (draw(st.integers(1, 9)), draw(st.text(max_size=9))) if kind is Kind.HEADING else (0, "")
        blocks.append(Block(kind=kind, start=start, end=at, level=level, title=title, page=page))
    return tuple(blocks)


@given(outlines())
def test_an_outline_gives_the_same_blocks_back(blocks: tuple[Block, ...]) -> None:
    length = blocks[-1].end if blocks else 0
    assert load_outline(dump_outline(blocks), length=length) == blocks


def test_an_outline_is_compact_and_its_form_stays() -> None:
    blocks = (
        Block(kind=Kind.HEADING, start=0, end=7, level=2, title="Müller", page=3),
        Block(kind=Kind.PARAGRAPH, start=9, end=20, page=3),
        Block(kind=Kind.TABLE, start=22, end=30),
    )
    assert dump_outline(blocks) == '[["h",0,7,3,2,"Müller"],["p",2,11,3],["t",2,8]]'
    assert load_outline("", length=0) == ()


@pytest.mark.parametrize(
    "outline",
    [
        "{", "7", "null", '{"a":1}', "[7]", '[["x",0,1]]', '[["p",-1,1]]', '[["p",0,-1]]', '[["p",0,11]]',
        '[["p","0",1]]', '[["p",0]]', '[["p",0,1,-1]]', '[["h",0,1,0,99,"t"]]', '[["h",0,1,0,1,7]]', "[" * 100_000,
        '[["h",0,1,0,1,"\\ud800"]]', '[["p",0,1.5]]', '[["h",0,1,0,1,"t","more"]]',
    ],
)  # fmt: skip
def test_what_is_no_outline_of_the_text_is_refused(outline: str) -> None:
    with pytest.raises(ValueError):
        load_outline(outline, length=10)
