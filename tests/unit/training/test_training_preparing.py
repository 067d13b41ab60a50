"""From files to a dataset folder: what is held back was taught in other words, and nothing is lost without a word."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.data import DataRejected, Options
from training.data.words import key
from training.examples import Dataset, DatasetInvalid
from training.preparing import REPORT_JSON, REPORT_TEXT, Wish, prepare_dataset
from training.recipes import RecipeInvalid

EVEN = Options(validation_share=0.3, test_share=0.3)
ALIKE = replace(EVEN, near_duplicates="report")
"""For rows from one template, which would all go to one split."""


def make(folder: Path, rows: Sequence[dict[str, Any]], recipe: str = "closed-book", **wish: Any) -> Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_dataset(
        [path], folder / "data", Wish(recipe=recipe, **({"options": EVEN} | wish)), replace_existing=True
    )


def report(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dataset.attachment(REPORT_JSON))
    return found


def places(dataset: Dataset, code: str) -> list[list[str]]:
    return [found["places"] for found in report(dataset)["findings"] if found["code"] == code]


def questions(dataset: Dataset, split: str) -> list[str]:
    return [example.messages[-1].content for example in dataset.split(split)]


def fact(group: str, question: str, answer: str = "red", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "group": group, **more}


WORDS = ("What is", "Tell me", "Do you know", "Say", "Name")


def facts(count: int, **more: Any) -> list[dict[str, Any]]:
    return [fact(f"g{n}", f"{word} colour {n}?", **more) for n in range(count) for word in WORDS]


def words_of(dataset: Dataset) -> dict[str, set[str]]:
    return {name: {key(text) for text in questions(dataset, name)} for name in ("train", "validation", "test")}


@pytest.mark.parametrize("seed", range(4))
def test_no_wording_is_held_back_that_training_has_in_other_case_or_marks(tmp_path: Path, seed: int) -> None:
    rows = [
        fact(
            f"g{n}",
            f"What is colour {n}?",
            paraphrases=[f"what is colour {n}", f"Say the colour {n}.", f"SAY colour {n}"],
        )
        for n in range(12)
    ]
    rows += [fact(f"g{n}", f"What is colour {n}??", category="again") for n in range(12)]
    rows += [fact(f"h{n}", f"Say colour {n}", paraphrases=[f"Other {n}", f"Another {n}"]) for n in range(3)]
    made = make(tmp_path, rows, seed=seed, min_wordings=8)
    found = words_of(made)
    assert found["test"]
    assert not found["train"] & (found["test"] | found["validation"])
    assert not found["test"] & found["validation"]
    assert "rows.jsonl:1" in places(made, "DUPLICATES")[-1]


def test_a_reserved_question_whose_fact_was_never_taught_is_left_out_and_told(tmp_path: Path) -> None:
    reserved = [fact("g1", "Which colour has 1?", split="test"), fact("g99", "Which colour has 99?", split="test")]
    reserved.append(fact("g2", "Which colour has 2?", "blue", split="test"))
    made = make(tmp_path, [*facts(8), *reserved])
    assert questions(made, "test") == ["Which colour has 1?"]
    assert places(made, "UNTAUGHT") == [["rows.jsonl:42", "rows.jsonl:43"]]
    assert made.validation
    with pytest.raises(RecipeInvalid, match="nothing to train on teaches what the test split asks"):
        make(tmp_path, [*facts(8), fact("g99", "Which colour has 99?", split="test")])


def test_a_training_question_in_the_words_of_a_reserved_one_is_left_out(tmp_path: Path) -> None:
    made = make(tmp_path, [*facts(8), fact("g1", "Name the colour 1", "red", split="test")])
    assert questions(made, "test") == ["Name the colour 1"]
    assert places(made, "NEAR_DUPLICATES")[-1] == ["rows.jsonl:10"]
    assert "name colour 1" not in words_of(made)["train"]


def test_the_split_that_was_not_reserved_is_filled(tmp_path: Path) -> None:
    made = make(tmp_path, [*facts(8), fact("g1", "Which colour has 1?", split="validation")])
    assert questions(made, "validation") == ["Which colour has 1?"]
    assert len({example.group for example in made.test}) == 8


def test_questions_without_an_answer_are_told(tmp_path: Path) -> None:
    made = make(tmp_path, [*facts(8), {"question": "Why?", "unanswerable": True}])
    assert places(made, "UNANSWERABLE") == [["rows.jsonl:41"]]


def test_the_report_tells_the_final_splits(tmp_path: Path) -> None:
    made = make(tmp_path, facts(8), min_wordings=1)
    told = report(made)
    assert {name: count["rows"] for name, count in told["splits"].items()} == made.counts
    assert told["splits"]["test"]["groups"] == 8
    assert told["options"]["test_share"] == 0.3
    assert not any(found["code"] == "SPLITS" for found in told["findings"])


MAIL = "jane@mail.example.org"


def reading(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"What is the limit of case {n}?", "answer": f"{n} days", "document_id": f"d{n}", **more}
        for n in range(count)
    ]


def documents(folder: Path, count: int) -> Path:
    path = folder / "documents.jsonl"
    rows = [{"document_id": f"d{n}", "text": f"The limit of case {n} is {n} days."} for n in range(count)]
    rows += [{"document_id": "letter", "text": f"Write to {MAIL}."}, {"document_id": "x", "title": MAIL, "text": "Yes"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("recipe", ["raft", "closed-book"])
def test_documents_are_searched_for_personal_data_too(tmp_path: Path, recipe: str) -> None:
    files = (documents(tmp_path, 20),)
    rows = [row | {"paraphrases": [f"Case {n}?"]} for n, row in enumerate(reading(20))]
    told = places(make(tmp_path, rows, recipe, documents=files, options=ALIKE), "PERSONAL_DATA")
    assert told == [["documents/documents.jsonl:21", "documents/documents.jsonl:22"]]
    made = make(tmp_path, rows, recipe, documents=files, options=replace(ALIKE, personal_data="drop"))
    for name in made.files:
        assert MAIL.encode() not in made.attachment(name)
    with pytest.raises(DataRejected, match=r"documents\.jsonl, line 21: PERSONAL_DATA"):
        make(tmp_path, rows, recipe, documents=files, options=replace(ALIKE, personal_data="refuse"))


def test_questions_whose_answer_stands_nowhere_are_told(tmp_path: Path) -> None:
    rows = [*reading(20), *reading(1, answer="nowhere", document_id="d0", paraphrases=["Where?"])]
    made = make(tmp_path, rows, "raft", documents=(documents(tmp_path, 20),), options=ALIKE)
    assert places(made, "NOT_FOUND") == [["rows.jsonl:21"]]
    assert "2 questions were left out" in made.attachment(REPORT_TEXT).decode()
    assert not places(
        make(tmp_path, rows[:20], "raft", documents=(documents(tmp_path, 20),), options=ALIKE), "NOT_FOUND"
    )


def test_files_beside_the_documents_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "terms"
    folder.mkdir()
    documents(folder, 20).rename(folder / "a.jsonl")
    (folder / "scan.pdf").write_bytes(b"x")
    made = make(tmp_path, reading(20), "raft", documents=(folder,), options=ALIKE)
    assert places(made, "FILES") == [["documents/terms/scan.pdf"]]


@pytest.mark.parametrize("seed", range(6))
def test_the_only_rows_of_a_label_are_trained_on_whatever_the_seed(tmp_path: Path, seed: int) -> None:
    texts = [f"{word} {other} {n}" for n, word in enumerate(WORDS) for other in ("one", "two", "three", "four")]
    rows = [{"text": text, "label": "often" if n % 7 else f"rare {n}"} for n, text in enumerate(texts)]
    made = make(tmp_path, rows, "classification", seed=seed, options=ALIKE)
    assert {example.answer for example in made.train} == {"often", "rare 0", "rare 7", "rare 14"}
    rows.append({"text": "reserved", "label": "other", "split": "test"})
    with pytest.raises(RecipeInvalid, match=r"rows\.jsonl:21"):
        make(tmp_path, rows, "classification", seed=seed, options=ALIKE)


def test_titles_and_labels_are_searched_for_personal_data(tmp_path: Path) -> None:
    rows = [
        *reading(20, answer="1 days", context="It says 1 days."),
        *reading(1, title=f"From {MAIL}", context="0 days"),
    ]
    assert ["rows.jsonl:21"] in places(make(tmp_path, rows, "raft", options=ALIKE), "PERSONAL_DATA")
    texts = [
        {"text": f"text {word} {n}", "label": label} for n, word in enumerate(WORDS * 6) for label in (MAIL, "other")
    ]
    assert places(make(tmp_path, texts, "classification", options=ALIKE), "PERSONAL_DATA")


SAMPLE = Path(__file__).parents[3] / "examples" / "company"


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"options": Options(test_share=0.2, personal_data="drop")}, "--personal-data"),
        ({"options": Options(test_share=0.4, columns={"id": ""})}, "--test-share, --column"),
        ({"kind": "style"}, "--kind"),
    ],
)
def test_a_company_folder_refuses_options_that_it_would_not_heed(
    tmp_path: Path, wish: dict[str, Any], named: str
) -> None:
    with pytest.raises(RecipeInvalid, match=f"leave {named} out"):
        prepare_dataset([SAMPLE], tmp_path / "data", Wish(recipe="style", **wish))
    made = prepare_dataset([SAMPLE], tmp_path / "data", Wish(recipe="style"))
    assert made.config["options"]["personal_data"] == "report"


def test_a_place_that_is_taken_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    for again, hint in ((False, "name another one"), (True, "not a dataset")):
        with pytest.raises(DatasetInvalid, match=hint):
            prepare_dataset([tmp_path / "absent"], tmp_path / "data", Wish(recipe="style"), replace_existing=again)
