"""Text extraction, passages, and the word search that stands in for the real one."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.extraction import extract
from training.recipes.asked import Document
from training.recipes.passages import WordIndex, chunks, cut, holds

DOCUMENT = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


@given(st.text("ab. \n", max_size=600), st.integers(20, 200))
def test_chunks_keep_every_word(text: str, size: int) -> None:
    found = chunks("d", text, max_characters=size)
    assert "".join("".join(chunk.text for chunk in found).split()) == "".join(text.split())


def test_chunks_are_packed_up_to_the_limit_and_carry_their_title() -> None:
    text = "\n\n".join(f"Paragraph {number} has some words." for number in range(20))
    found = cut([Document("d", text, "Words")], max_characters=120)
    assert all(len(chunk.text) <= 130 for chunk in found)
    assert len(found) < 10
    assert {(chunk.document_id, chunk.title) for chunk in found} == {("d", "Words")}


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


@pytest.mark.parametrize(
    "page",
    [
        "<head><title>T</title><body><p>One two</p></body>",
        "<head><title>T<body>One two",
        "<head><style>x</style><p>One two</p>",
        "</title></script><p>One two</p>",
        "<html><head><title>T</title></head><body></style>One two",
        "<p>One <script>x</script></script>two</p><p></p>",
    ],
)
def test_pages_with_missing_or_lone_tags_lose_no_text(tmp_path: Path, page: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(page)
    assert extract(path).split() == ["One", "two"]


def test_the_end_of_a_page_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("One two &copy")
    assert extract(path) == "One two \u00a9"


def test_the_best_text_shares_rare_words() -> None:
    index = WordIndex(["common words here", "common words and tortoise", "common"])
    assert index.best("Where is the tortoise?", 1) == [1]
    assert index.best("Where is the tortoise?", 9) == [1, 0, 2]
    assert WordIndex([]).best("anything", 3) == []


def test_ranks_do_not_depend_on_the_process() -> None:
    code = (
        "from training.recipes.passages import WordIndex\n"
        "texts = [' '.join(f'w{(i * j) % 17}' for j in range(9)) for i in range(40)]\n"
        "print(WordIndex(texts).best(' '.join(f'w{n}' for n in range(17)), 40))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != b""


def test_an_answer_is_held_word_for_word() -> None:
    assert holds("pays EUR 1,200 at most.", ["EUR 1200"])
    assert not holds("pays EUR 11,200 at most.", ["EUR 1200"])
    assert not holds("anything", [])
    assert not holds("anything", ["the"])


@pytest.mark.parametrize(
    ("text", "answer", "is_held"),
    [
        ("The rate is 3.5 %.", "35 %", False),
        ("The rate is 3.5 %.", "3,5 %", True),
        ("EUR 1.200,50 at most", "1,200.50", True),
        ("up to EUR 1,250, whatever its result", "EUR 1250", True),
        ("up to EUR 1.250. Later", "€1,250", False),
        ("up to EUR 1.250. Later", "EUR 1,250", True),
        ("It’s the “Blue House”—so they say…", "blue house", True),
        ("from 10\u201320 on", "10-20", True),
        ("盗难必须在30日内报告。", "30日", True),
        ("盗难必须在130日内报告。", "30日", False),
        ("盗难必须在三十日内报告。", "三十日", True),
        ("ต้องแจ้งภายในสามสิบวัน", "สามสิบวัน", True),
        ("the limits", "limit", False),
    ],
)
def test_answers_of_all_scripts_are_found_and_decimal_marks_count(text: str, answer: str, is_held: bool) -> None:
    assert holds(text, [answer]) == is_held
