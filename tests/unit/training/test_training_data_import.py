"""Users' files: what is read, what is refused by file and line, and that nothing is half-imported."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import KINDS, DataRejected, Limits, QuestionAnswer, Row, import_rows

GOOD = {"question": "What is the excess?", "answer": "EUR 200"}


def lines(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def take(path: Path, kind: str = "question_answer", **options: Any) -> tuple[Row, ...]:
    return import_rows([path], kind=kind, **options).rows


def refused(path: Path, kind: str = "question_answer", **options: Any) -> str:
    with pytest.raises(DataRejected) as caught:
        import_rows([path], kind=kind, **options)
    return str(caught.value)


def test_questions_with_one_or_more_answers(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "faq.jsonl",
        GOOD | {"group": "home", "paraphrases": ["How high is the excess?"]},
        {"question": "Q2", "answers": ["a", "b"], "answer": "b", "document_id": "terms", "context": "a or b"},
        {"question": "Q3", "answers": [""], "is_impossible": True},
        {"question": "Q4", "answer": 4, "group": None},
    )
    one, two, three, four = take(path)
    assert isinstance(one, QuestionAnswer)
    assert (one.answers, one.group, one.paraphrases) == (("EUR 200",), "home", ("How high is the excess?",))
    assert isinstance(two, QuestionAnswer)
    assert (two.answers, two.group, two.origin) == (("b", "a"), "terms", "faq.jsonl:2")
    assert isinstance(three, QuestionAnswer)
    assert three.unanswerable
    assert not three.answers
    assert four.answered() == ("4",)
    assert four.group == four.id == four.content_hash()


def test_csv_with_quotes_lists_and_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text('\ufeffquestion,answers,group\r\n"a, or\r\nb?","[""x"", ""y""]",g\r\n\r\nc?,z,\r\n')
    one, two = take(path)
    assert one.asked() == "a, or\nb?"
    assert (one.answered(), one.group) == (("x", "y"), "g")
    assert (two.answered(), two.origin) == (("z",), "faq.csv:5")


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_the_mark_between_cells_is_recognised(tmp_path: Path, mark: str) -> None:
    (tmp_path / "x.csv").write_text(f"text{mark}label\nfine{mark}good\n")
    assert take(tmp_path / "x.csv", "classification")[0].answered() == ("good",)


def test_each_kind_is_read(tmp_path: Path) -> None:
    rows = {
        "instruction": {"instruction": "Sum up", "input": "long", "output": "short"},
        "question_answer": GOOD,
        "classification": {"text": "I am glad", "label": "glad"},
        "style": {"brief": "no excess", "text": "Dear Ms Orlan"},
        "document": {"document_id": "d", "text": "words", "title": "T"},
    }
    assert set(rows) == set(KINDS)
    for kind, fields in rows.items():
        (row,) = take(lines(tmp_path / "x.jsonl", fields), kind)
        assert row.kind == kind
        assert row.texts()


def test_folders_of_text_and_packed_lines(tmp_path: Path) -> None:
    (tmp_path / "terms" / "home").mkdir(parents=True)
    (tmp_path / "terms" / "home" / "theft.md").write_text("Theft is covered.\n")
    (tmp_path / "terms" / ".hidden.txt").write_text("no")
    (row,) = take(tmp_path / "terms", "document")
    assert (row.group, row.asked()) == ("terms/home/theft.md", "Theft is covered.")
    packed = tmp_path / "faq.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(take(packed)) == 1
    assert "max_file_bytes" in refused(packed, limits=Limits(max_file_bytes=60))
    packed.write_bytes(packed.read_bytes()[:20])
    assert "no complete gzip" in refused(packed)


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"query": "Q", "reply": "A", "question": "ignored", "id": "1", "site": "s"})
    found = import_rows(
        [path], kind="question_answer", columns={"question": "query", "answer": "reply", "id": "", "group": "site"}
    )
    assert found.rows[0].asked() == "Q"
    assert (found.rows[0].group, found.rows[0].id) == ("s", found.rows[0].content_hash())
    assert found.unused == {"question": 1, "id": 1}
    assert "colour: not among the fields" in refused(path, columns={"colour": "query"})


def test_numbers_keep_their_text_and_lists_in_strings_are_for_tables(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl", b'{"question": "[1] What?", "answer": 1.50}', b'{"question": "Q", "answer": "[1]"}'
    )
    one, two = take(path)
    assert (one.asked(), one.answered()) == ("[1] What?", ("1.50",))
    assert two.answered() == ("[1]",)
    (tmp_path / "x.csv").write_text('question,answers\nQ,"[""x"", 1.50]"\nP,[1\n')
    one, two = take(tmp_path / "x.csv")
    assert (one.answered(), two.answered()) == (("x", "1.50"), ("[1",))
    assert take(lines(path, b'{"question": "Q", "answer": ' + b"1" * 5000 + b"}"))[0].answered() == ("1" * 5000,)


def test_a_row_has_a_group_where_its_passage_is_another_rows(tmp_path: Path) -> None:
    asked = {"answer": "x", "context": "It is x."}
    rows = [asked | {"question": "Q"}, asked | {"question": "P"}, asked | {"question": "O", "document_id": "d"}]
    one, two, three, four = take(lines(tmp_path / "x.jsonl", *rows, GOOD))
    assert one.group == two.group
    assert (three.group, four.group) == ("d", four.id)


BAD_LINES = {
    b"{": "line 2: is not valid JSON: Expecting property name enclosed in double quotes at column 2",
    b"[1]": "line 2: is no JSON object",
    b'[{"question": ': "one JSON object a line is needed, not an array",
    b'{"question": "caf\xe9", "answer": "x"}': "line 2: is not UTF-8 (byte 0xE9 at 18)",
    b'{"question": "a", "question": "b", "answer": "x"}': "names a field twice",
    b'{"question": NaN}': "holds NaN",
    b'{"question": 1e999}': "holds a number that is too large",
    b'{"question": "\\u200b \\u00ad", "answer": "x"}': "line 2: question: is empty",
    json.dumps(
        GOOD | {"paraphrases": ["p"] * 201}
    ).encode(): "line 2: paraphrases: Tuple should have at most 200 items",
    b"[" * 100_000: "is too deep or too large",
    b'{"question": "a"}': "line 2: an answer is missing",
    b'{"question": " ", "answer": "x"}': "line 2: question: is empty",
    b'{"answer": "x"}': "line 2: question: Field required",
    b'{"question": ["a"], "answer": "x"}': "line 2: question: Input should be a valid string",
    b'{"question": "a", "answer": {"b": 1}}': "line 2: answers.0: Input should be a valid string",
    b'{"question": "a\\u0000", "answer": "x"}': "line 2: question: holds U+0000",
    b'{"question": "\\ud800", "answer": "x"}': "line 2: question: holds U+D800",
    b'{"question": "a", "answer": "x", "unanswerable": true}': "an unanswerable question has an answer",
    b'{"question": "a", "answer": "x", "split": "dev"}': "line 2: split: Input should be",
    b'{"question": "a", "answer": "x", "id": "1"}': "line 2: id: was used before, in bad.jsonl:1",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:40].decode("latin-1"))
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: bytes) -> None:
    message = refused(lines(tmp_path / "bad.jsonl", GOOD | {"id": "1"}, line, GOOD))
    assert message.startswith("bad.jsonl, line 2: ")
    assert BAD_LINES[line] in message
    assert message.count("\n") == 0


BAD_TABLES = {
    b"question,answer\na,b\nc\n": "line 3: has 1 cells, the header has 2",
    b"question,answer\na,b,c\n": "line 2: has 3 cells",
    b'question,answer\nx,y\n"open,b\nc,d\n': "line 3: is not valid CSV",
    b"question,question\na,b\n": "line 1: the header has an empty or a repeated name",
    b"question,answer\ncaf\xe9,b\n": "line 2: is not UTF-8 (byte 0xE9 at 4)",
    b"question,answer\n": "hold no row",
    b"question,answer\n,b\n": "line 2: question: Field required",
    b"caf\xe9,answer\na,b\n": "line 1: is not UTF-8",
    "question,answer\n".encode("utf-16"): "is UTF-16",
    b"": "is empty",
}


@pytest.mark.parametrize("content", BAD_TABLES, ids=lambda content: content[:40].decode("latin-1"))
def test_a_bad_table_is_named_with_its_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    assert BAD_TABLES[content] in refused(tmp_path / "bad.csv")


def test_all_bad_rows_are_counted_and_the_first_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "bad.jsonl", *[{"question": "secret"}] * 30, GOOD)
    with pytest.raises(DataRejected) as caught:
        import_rows([path], kind="question_answer", limits=Limits(max_problems=5))
    assert (len(caught.value.problems), caught.value.num_problems) == (5, 30)
    assert str(caught.value).endswith("... and 25 more")
    assert "secret" not in str(caught.value)


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert "one JSON object a line" in refused(tmp_path / "x.json")
    assert "is no file and no folder" in refused(tmp_path / "absent.jsonl")
    assert "holds no file that ends in" in refused(tmp_path)
    assert "poems is no kind of data" in refused(tmp_path, "poems")
    with pytest.raises(DataRejected, match="no file was given"):
        import_rows([], kind="style")


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_rows", 2), ("max_file_bytes", 90), ("max_line_bytes", 40), ("max_row_characters", 20), ("max_files", 0)],
)
def test_what_is_too_much_is_refused(tmp_path: Path, limit: str, value: int) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, GOOD, GOOD)
    assert limit in refused(path, limits=Limits(**{limit: value}))


def test_a_large_field_of_csv_is_refused_and_the_next_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"question,answer\na,{'b' * 50}\n")
    before = csv.field_size_limit()
    assert "line 2: is not valid CSV: field larger" in refused(tmp_path / "x.csv", limits=Limits(max_line_bytes=40))
    assert csv.field_size_limit() == before
    assert len(take(tmp_path / "x.csv")) == 1


def test_a_file_name_of_any_bytes_can_be_written_down(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    found = import_rows([lines(path, GOOD)], kind="question_answer")
    assert list(found.inputs) == ["caf\\udce9.jsonl"]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lines(tmp_path / folder / "x.jsonl", GOOD)
    found = import_rows([tmp_path / "a" / "x.jsonl", tmp_path / "b" / "x.jsonl"], kind="question_answer")
    assert list(found.inputs) == ["x.jsonl", "x.jsonl (2)"]
    assert len({row.id for row in found.rows}) == 2


@given(content=st.binary(max_size=200), name=st.sampled_from(["x.jsonl", "x.csv", "x.tsv", "x.jsonl.gz"]))
def test_no_bytes_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    with pytest.raises(DataRejected):
        import_rows([path], kind="style")


words = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(words, words), min_size=1, max_size=20), bad=st.integers(0, 19))
def test_one_bad_row_among_good_ones_stops_them_all(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], bad: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    good = [{"prompt": prompt, "text": text} for prompt, text in rows]
    assert len(take(lines(path, *good), "style")) == len(rows)
    place = min(bad, len(rows))
    message = refused(lines(path, *good[:place], {"prompt": "alone"}, *good[place:]), "style")
    assert message == f"x.jsonl, line {place + 1}: text: Field required"
