"""What preparation says about doubtful rows: by kind and place, never by value."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import DataRejected, Finding, Options, Prepared, prepare
from training.data.near_duplicates import _Index, near_duplicates, similarity
from training.data.personal import find_personal

ALL_IN_TRAIN = {"validation_share": 0, "test_share": 0}


def run(tmp_path: Path, rows: Sequence[dict[str, Any]], kind: str = "question_answer", **options: Any) -> Prepared:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare([path], kind=kind, options=Options(**(ALL_IN_TRAIN | options)))


def finding(prepared: Prepared, code: str) -> Finding:
    (found,) = [found for found in prepared.report.findings if found.code == code]
    return found


def asked(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


def test_clean_data_have_no_findings(tmp_path: Path) -> None:
    prepared = run(tmp_path, [asked("What is the excess?", "EUR 200"), asked("Who pays the workshop?", "Halden")])
    assert not prepared.report.findings
    assert "Nothing doubtful was found." in prepared.report.to_text()
    assert [row.origin for row in prepared.splits["train"]] == ["x.jsonl:1", "x.jsonl:2"]


def test_copies_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [asked("Excess?", "EUR 200", id="a"), asked("Excess?", " EUR 200 ", id="b"), asked("Glass?", "EUR 150")]
    prepared = run(tmp_path, rows)
    assert prepared.splits["train"][0].id == "a"
    assert finding(prepared, "DUPLICATES").places == ("x.jsonl:2",)
    assert (prepared.report.rows_read, prepared.report.rows_kept) == (3, 2)


def test_of_two_copies_the_reserved_one_stays(tmp_path: Path) -> None:
    rows = [asked("Excess?", "EUR 200"), asked("Excess?", "EUR 200", split="test"), asked("Who?", "Ms Orlan")]
    prepared = run(tmp_path, rows)
    assert [row.origin for row in prepared.splits["test"]] == ["x.jsonl:2"]


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train"), ("validation", "test"), ("", "test")])
def test_no_training_copy_takes_the_place_of_a_test_row(tmp_path: Path, order: tuple[str, ...]) -> None:
    rows = [asked("Excess?", "EUR 200", split=split) for split in order]
    prepared = run(tmp_path, [*rows, asked("Who?", "Ms Orlan")])
    assert [row.split for row in prepared.splits["test"]] == ["test"]
    assert len(prepared.splits["train"]) == 1


CONTRADICTING = [
    asked("What is the excess?", "EUR 200"),
    asked("what is  the excess?", "EUR 300"),
    asked("Who pays?", "Halden"),
    asked("Who pays?", "Halden Mutual", answers=["Halden"]),
    asked("Which day?", "Monday", context="It was Monday."),
    asked("Which day?", "Friday", context="It was Friday."),
    asked("Is hail covered?", "yes"),
    {"question": "Is hail covered?", "unanswerable": True},
]


def test_contradictions_are_told_dropped_or_refused(tmp_path: Path) -> None:
    places = ("x.jsonl:1", "x.jsonl:2", "x.jsonl:7", "x.jsonl:8")
    assert finding(run(tmp_path, CONTRADICTING), "CONTRADICTIONS").places == places
    dropped = run(tmp_path, CONTRADICTING, contradictions="drop")
    assert [row.origin[-1] for row in dropped.splits["train"]] == ["3", "4", "5", "6"]
    with pytest.raises(DataRejected, match=r"x\.jsonl, line 7: CONTRADICTIONS: 4 rows") as caught:
        run(tmp_path, CONTRADICTING, contradictions="refuse")
    assert caught.value.num_problems == 4


def test_contradictions_are_found_in_every_wording_and_heed_decimal_marks(tmp_path: Path) -> None:
    rows = [
        asked("How high is the rate?", "3.5 %"),
        asked("How high is the rate", "35 %"),
        asked("What is the fee?", "EUR 1,200", paraphrases=["How much is it?"]),
        asked("How much is it!", "EUR 1,300"),
        asked("Who?", "1,200", context="x"),
        asked("Who", "1.200", context="x"),
        asked("When？", "3,5", paraphrases=["when"]),
        asked("When?", "3.5"),
    ]
    assert finding(run(tmp_path, rows), "CONTRADICTIONS").places == tuple(f"x.jsonl:{n}" for n in (1, 2, 3, 4))


PERSONAL = {
    "Write to jane.doe+x@mail.example.org.": ["e-mail"],
    "Pay to GB82 WEST 1234 5698 7654 32 today": ["iban"],
    "Pay to GB82 WEST 1234 5698 7654 33 today": [],
    "Pay to DE89370400440532013000": ["iban"],
    "Card 4111 1111 1111 1111, or 378282246310005": ["card", "card"],
    "Card 4111 1111 1111 1112": [],
    "Call +49 30 901820 or (212) 736-5000": ["phone", "phone"],
    "SSN 536-90-4399": ["national id (us.ssn)"],
    "Steuer-ID 36 574 261 809": ["national id (de.idnr)"],
    "PESEL 44051401359, not 44051401358": ["national id (pl.pesel)"],
    "DNI 54362315K": ["national id (es.dni)"],
    "EUR 1,200 within 10 days, tariff 2026, claim 20261122": [],
    "No. 12345": [],
    "the café@home": [],
    "٤١١١١١١١١١١١١١١١": [],
}


@pytest.mark.parametrize("text", PERSONAL)
def test_personal_data_are_known_by_form_and_check_digits(text: str) -> None:
    assert list(find_personal(text, regions=("US",))) == PERSONAL[text]


@given(text=st.text(st.sampled_from("0123456789 +-.()@aGBDE"), max_size=300))
def test_no_text_breaks_the_search_for_personal_data(text: str) -> None:
    assert set(find_personal(text, regions=("US", "GB"))) is not None


def test_personal_data_are_told_without_their_values(tmp_path: Path) -> None:
    rows = [asked("Whom to write?", "jane@mail.example.org"), asked("Which card?", "4111 1111 1111 1111")]
    prepared = run(tmp_path, [*rows, asked("Which colour?", "blue")])
    assert prepared.report.personal_data == {"card": 1, "e-mail": 1}
    assert finding(prepared, "PERSONAL_DATA").places == ("x.jsonl:1", "x.jsonl:2")
    for text in (prepared.report.to_text(), prepared.report.to_json()):
        assert "jane" not in text
        assert "4111" not in text
    dropped = run(tmp_path, [*rows, asked("Which colour?", "blue")], personal_data="drop")
    assert [row.origin for row in dropped.splits["train"]] == ["x.jsonl:3"]
    with pytest.raises(DataRejected, match="no row is left"):
        run(tmp_path, rows, personal_data="drop")
    with pytest.raises(DataRejected) as caught:
        run(tmp_path, rows, personal_data="refuse")
    assert "jane" not in str(caught.value)


def test_unusual_lengths_are_told_by_field(tmp_path: Path) -> None:
    rows = [asked(f"What does clause {n} of the terms say?", "word " * (5 + n % 4)) for n in range(30)]
    prepared = run(tmp_path, [*rows, asked("What does clause 99 of the terms say?", "word " * 900)])
    assert finding(prepared, "LENGTHS").places == ("x.jsonl:31",)
    assert "answers" in finding(prepared, "LENGTHS").text
    assert prepared.report.lengths["answers"] == {"min": 5, "median": 6, "p95": 8, "max": 900}


def test_other_languages_are_told(tmp_path: Path) -> None:
    english = "Theft of the insured bicycle is covered when it was locked to a fixed object, number"
    german = "Der Diebstahl des versicherten Fahrrads ist gedeckt, wenn es an einem festen Gegenstand angeschlossen war"
    rows = [{"document_id": str(n), "text": f"{english} {n}"} for n in range(20)]
    prepared = run(
        tmp_path, [*rows, {"document_id": "de", "text": german}, {"document_id": "s", "text": "OK"}], "document"
    )
    assert prepared.report.languages == {"en": 20, "?": 1, "de": 1}
    assert finding(prepared, "LANGUAGES").places == ("x.jsonl:21",)


def test_labels_are_counted_and_one_alone_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"text number {n}", "label": "good" if n % 3 else "bad"} for n in range(9)]
    prepared = run(tmp_path, [*rows, {"text": "so so", "label": "odd", "split": "test"}], "classification")
    assert prepared.report.labels == {"good": 6, "bad": 3, "odd": 1}
    assert ("x.jsonl:10",) in [found.places for found in prepared.report.findings if found.code == "SPLITS"]
    with pytest.raises(DataRejected, match="the same label"):
        run(tmp_path, [{"text": f"text number {n}", "label": "good"} for n in range(9)], "classification")


def test_unused_fields_are_told(tmp_path: Path) -> None:
    prepared = run(tmp_path, [asked("What?", "That", colour="red")])
    assert finding(prepared, "FIELDS").text == "The field colour of 1 rows is not used."


def test_names_of_unused_fields_are_shown_short_and_plain(tmp_path: Path) -> None:
    names = {f"n{n}": 1 for n in range(30)} | {"\x1b[2J" + "x" * 500: 1}
    told = [found.text for found in run(tmp_path, [asked("What?", "That", **names)]).report.findings]
    assert len(told) == 21
    assert told[0] == f"The field \\x1b[2J{'x' * 53}... of 1 rows is not used."
    assert told[-1] == "11 other fields are not used."
    assert all(text.isprintable() for text in told)


def test_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number:02}.docx").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"")
    (folder / "x.jsonl").write_text(json.dumps(asked("What?", "That")))
    prepared = prepare([folder], kind="question_answer", options=Options(**ALL_IN_TRAIN))
    found = finding(prepared, "FILES")
    assert (found.num_places, len(found.places), found.places[0]) == (25, 20, "data/00.docx")


def test_report_is_the_same_each_time(tmp_path: Path) -> None:
    reports = [run(tmp_path, CONTRADICTING).report for _ in range(2)]
    assert reports[0].to_json() == reports[1].to_json()
    assert json.loads(reports[0].to_json())["rows_read"] == 8


def test_likeness_ignores_case_and_punctuation() -> None:
    assert similarity("What is the excess?", "what is the EXCESS") == 1
    assert similarity("What is the excess?", "Who pays the workshop?") < 0.3
    assert similarity("?", "!") < 1
    assert similarity("?", "?") == 1


sentences = st.lists(st.sampled_from(["the", "excess", "of", "a", "car", "is", "paid", "by", "workshop", "glass"]))


@given(words=st.lists(sentences.map(" ".join), min_size=2, max_size=15), threshold=st.sampled_from([0.5, 0.8, 1.0]))
def test_pairs_are_true_and_equal_texts_are_found(words: list[str], threshold: float) -> None:
    texts = [text or "." for text in words]
    parents = list(range(len(texts)))
    for one, other in near_duplicates([(text,) for text in texts], threshold=threshold):
        assert one < other
        assert similarity(texts[one], texts[other]) >= threshold
        parents = [parents[one] if parent == parents[other] else parent for parent in parents]
    for one, text in enumerate(texts):
        assert parents[one] == parents[texts.index(text)]


def test_what_is_like_a_copy_of_the_first_is_found_too() -> None:
    words = [f"word{n}" for n in range(100)]
    first, second = " ".join(words), " ".join([*words[:-4], "a", "few", "other", "ones"])
    third = " ".join([*words[4:-4], "a", "few", "other", "ones"])
    assert 0.9 < similarity(first, second) < 1
    assert similarity(first, third) < 0.9 < similarity(second, third)
    assert list(near_duplicates([(first,), (second,), (third,), (first,)], threshold=0.9)) == [(0, 1), (1, 2), (0, 3)]


def test_a_context_counts_with_each_wording() -> None:
    context = " ".join(f"clause {n} says that theft is covered" for n in range(60))
    wordings = [("Who pays?", "Is it paid?"), ("Who pays?",), ("Which colour?",)]
    assert list(near_duplicates(wordings, [context, "red", context], threshold=0.8)) == [(0, 2)]
    assert list(near_duplicates(wordings, ["", "", ""], threshold=0.8)) == [(0, 1)]


def test_of_a_template_some_texts_stand_for_the_others() -> None:
    index = _Index(400, 400, 0.8)
    text = "The rules of the house say that claims are to be reported in writing within thirty days, number"
    pairs = [pair for item in range(400) for pair in index.add(item, f"{text} {item}", "")]
    assert len(pairs) == 399
    assert index.kept == {0: 100}


def test_a_long_text_with_one_change_is_found_by_any_of_its_wordings() -> None:
    text = " ".join(f"clause {n} says that theft is covered" for n in range(60))
    pairs = near_duplicates([("short", text), ("other",), (text.replace("clause 30", "clause thirty"),)], threshold=0.8)
    assert list(pairs) == [(0, 2)]
