from hypothesis import given
from hypothesis import strategies as st

from services.retriever.chunking import contextual_prefix, cut, prefix_of
from services.retriever.domain import Block, Chunk, Kind

LIMIT = 60
pieces = st.text(alphabet="ab .!?\n|é🙂\t日。", max_size=150)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[Block]]:
    """Draws a text with blocks in order and apart; between blocks there may be text that no block holds."""
    text, blocks = "", []
    for _ in range(draw(st.integers(0, 8))):
        text += draw(st.sampled_from(["", "\n\n", " stray text. ", "\n"]))
        body = draw(pieces)
        kind = draw(st.sampled_from(list(Kind)))
        level = draw(st.integers(1, 4)) if kind is Kind.HEADING else 0
        page = draw(st.none() | st.integers(1, 3))
        blocks.append(
            Block(kind=kind, start=len(text), end=len(text) + len(body), level=level, title=body.strip(), page=page)
        )
        text += body
    return text + draw(pieces), blocks


@given(documents(), st.integers(1, 90))
def test_chunks_are_exact_apart_bounded_and_hold_all_that_is_not_blank(
    document: tuple[str, list[Block]], limit: int
) -> None:
    text, blocks = document
    chunks = cut(text, blocks, limit=limit)
    covered, at = set(), 0
    for chunk in chunks:
        assert at <= chunk.start < chunk.end <= len(text)
        assert chunk.end - chunk.start <= limit
        piece = text[chunk.start : chunk.end]
        assert piece == piece.strip()
        covered.update(range(chunk.start, chunk.end))
        at = chunk.end
    assert all(index in covered for index, character in enumerate(text) if not character.isspace())


def blocks_of(*parts: tuple[Kind, str, int]) -> tuple[str, list[Block]]:
    text, blocks = "", []
    for kind, body, level in parts:
        text += "\n\n" if text else ""
        blocks.append(
            Block(kind=kind, start=len(text), end=len(text) + len(body), level=level, title=body.lstrip("# "))
        )
        text += body
    return text, blocks


def texts(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in chunks]


def test_a_section_begins_a_chunk_and_knows_its_path() -> None:
    text, blocks = blocks_of(
        (Kind.PARAGRAPH, "Foreword.", 0),
        (Kind.HEADING, "# Motor", 1),
        (Kind.HEADING, "## Glass", 2),
        (Kind.PARAGRAPH, "No excess.", 0),
        (Kind.PARAGRAPH, "No limit.", 0),
        (Kind.HEADING, "## Hail", 2),
        (Kind.PARAGRAPH, "Covered.", 0),
        (Kind.HEADING, "# Home", 1),
    )
    chunks = cut(text, blocks, limit=LIMIT)
    assert texts(text, chunks) == [
        "Foreword.",
        "# Motor\n\n## Glass\n\nNo excess.\n\nNo limit.",
        "## Hail\n\nCovered.",
        "# Home",
    ]
    assert [chunk.headings for chunk in chunks] == [(), ("Motor", "Glass"), ("Motor", "Hail"), ("Home",)]


def test_headings_that_do_not_fit_together_keep_each_its_own_path() -> None:
    text, blocks = blocks_of((Kind.HEADING, "a" * 40, 1), (Kind.HEADING, "b" * 40, 1))
    assert [chunk.headings for chunk in cut(text, blocks, limit=LIMIT)] == [("a" * 40,), ("b" * 40,)]


def test_what_goes_on_with_a_table_knows_the_row_that_heads_it() -> None:
    rows = ["| plan | fee |", "| --- | --- |", *(f"| plan {number} | {number * 100} |" for number in range(9))]
    text, blocks = blocks_of((Kind.PARAGRAPH, "Fees.", 0), (Kind.TABLE, "\n".join(rows), 0), (Kind.PARAGRAPH, "So.", 0))
    first, *others = cut(text, blocks, limit=LIMIT)
    assert text[first.start : first.end].startswith(f"Fees.\n\n{rows[0]}")
    assert prefix_of(text, first, title="T") == "T\n"
    assert {prefix_of(text, chunk, title="T") for chunk in others} == {f"T\n{rows[0]}\n"}


def test_the_head_that_goes_along_is_bounded_and_leaves_room_in_the_chunk() -> None:
    table = "\n".join(f"| {'h' * 390} |" for _ in range(9))
    block = Block(kind=Kind.TABLE, start=0, end=len(table))
    chunks = cut(table, [block], limit=900)
    assert [chunk.end - chunk.start for chunk in chunks] == [789, *[394] * 7]
    assert {len(prefix_of(table, chunk, title="")) for chunk in chunks[1:]} == {301}


def test_an_overlong_paragraph_is_cut_between_sentences_and_keeps_its_heading_with_it() -> None:
    sentences = [f"This is sentence number {number}." for number in range(6)]
    text, blocks = blocks_of((Kind.HEADING, "Long", 1), (Kind.PARAGRAPH, " ".join(sentences), 0))
    chunks = cut(text, blocks, limit=LIMIT)
    assert texts(text, chunks)[0] == f"Long\n\n{sentences[0]} {sentences[1]}"
    assert all(piece.endswith(".") for piece in texts(text, chunks))
    assert {chunk.headings for chunk in chunks} == {("Long",)}


def test_a_table_stays_whole_where_it_fits_and_is_cut_between_rows_where_not() -> None:
    rows = [f"| plan {number} | {number * 100} |" for number in range(9)]
    small, blocks = blocks_of((Kind.PARAGRAPH, "x" * 30, 0), (Kind.TABLE, "\n".join(rows[:3]), 0))
    assert texts(small, cut(small, blocks, limit=LIMIT)) == ["x" * 30, "\n".join(rows[:3])]
    large, blocks = blocks_of((Kind.TABLE, "\n".join(rows), 0))
    pieces_of_it = texts(large, cut(large, blocks, limit=LIMIT))
    assert [row for piece in pieces_of_it for row in piece.split("\n")] == rows
    assert len(pieces_of_it) > 1


def test_a_word_longer_than_the_limit_is_cut_hard() -> None:
    text = "é" * 150
    assert texts(text, cut(text, [], limit=LIMIT)) == ["é" * 60, "é" * 60, "é" * 30]


def test_the_page_is_that_of_the_chunks_beginning() -> None:
    text = "One.\n\nTwo."
    blocks = [
        Block(kind=Kind.PARAGRAPH, start=0, end=4, page=1),
        Block(kind=Kind.PARAGRAPH, start=6, end=10, page=2),
    ]
    assert [chunk.page for chunk in cut(text, blocks, limit=LIMIT)] == [1]
    assert [chunk.page for chunk in cut(text, blocks, limit=5)] == [1, 2]


def test_the_prefix_names_the_path_once_and_is_bounded() -> None:
    assert contextual_prefix("Manual", ("Manual", "Glass")) == "Manual > Glass\n"
    assert contextual_prefix("", ()) == ""
    assert len(contextual_prefix("t" * 512, ("h" * 300,) * 9)) <= 601
