"""Passages and reading cases."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.prompts import ABSTENTION
from training.passages import Chunk, WordIndex, chunks, extract, holds, reading_cases

DOCUMENT = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


@given(st.text("ab. \n", max_size=600), st.integers(20, 200))
def test_chunks_keep_every_word(text: str, size: int) -> None:
    found = chunks("d", text, max_characters=size)
    assert "".join("".join(chunk.text for chunk in found).split()) == "".join(text.split())


def test_chunks_are_packed_up_to_the_limit() -> None:
    text = "\n\n".join(f"Paragraph {number} has some words." for number in range(20))
    found = chunks("d", text, max_characters=120)
    assert all(len(chunk.text) <= 130 for chunk in found)
    assert len(found) < 10


def test_html_and_docx_become_text(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><head><title>T</title></head><body><h1>Head</h1><p>One\n two</p><script>x</script></body>")
    assert extract(page).split() == ["Head", "One", "two"]
    letter = tmp_path / "letter.docx"
    space = DOCUMENT.strip("{}")
    with zipfile.ZipFile(letter, "w") as archive:
        body = "<w:p><w:r><w:t>One </w:t><w:t>two</w:t></w:r></w:p><w:p><w:r><w:t>three</w:t></w:r></w:p>"
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>')
    assert extract(letter) == "One two\n\nthree"
    with pytest.raises(ValueError, match=r"\.rtf"):
        extract(tmp_path / "letter.rtf")


def test_the_best_chunk_shares_rare_words() -> None:
    index = WordIndex([Chunk("a", "common words here"), Chunk("b", "common words and tortoise"), Chunk("c", "common")])
    assert index.rank("Where is the tortoise?")[0].document_id == "b"


def test_an_answer_is_held_word_for_word() -> None:
    assert holds("pays EUR 1,200 at most.", ["EUR 1200"])
    assert not holds("pays EUR 11,200 at most.", ["EUR 1200"])
    assert not holds("anything", [])


def row(question: str, answers: list[str], gold: list[str], history: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"question": question, "answers": answers, "gold_documents": gold, "history": list(history)}


FOUND = [Chunk("gold", "The limit is 30 days."), *(Chunk(f"d{n}", f"Other text number {n}") for n in range(9))]


def test_the_gold_passage_is_there_unless_it_was_left_out() -> None:
    rows = [row(f"What is the limit {n}?", ["30 days"], ["gold"]) for n in range(100)]
    cases = reading_cases(rows, [FOUND], seed=1, absent_share=0.2)
    absent = [case for case in cases if case.answers == (ABSTENTION,)]
    assert 10 <= len(absent) <= 32
    for case in cases:
        assert 2 <= len(case.passages) <= 5
        assert any("30 days" in passage for passage in case.passages) == (case not in absent)
        assert len(set(case.passages)) == len(case.passages)


def test_questions_without_an_answer_teach_abstention_and_follow_ups_are_left_out() -> None:
    rows = [row("Unknown?", [], []), row("And then?", ["30 days"], ["gold"], ("earlier",)), row("Q?", ["x"], ["gold"])]
    cases = reading_cases(rows, [FOUND], seed=1)
    assert [case.answers for case in cases] == [(ABSTENTION,)]


def test_the_same_seed_gives_the_same_cases() -> None:
    rows = [row("What is the limit?", ["30 days"], ["gold"])]
    assert reading_cases(rows, [FOUND], seed=3, variants=4) == reading_cases(rows, [FOUND], seed=3, variants=4)
