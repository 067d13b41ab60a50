"""From files to a dataset folder: what is held back was taught in other words, and nothing is lost without a word."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from training.data import Options
from training.data.words import key
from training.examples import Dataset
from training.preparing import REPORT_JSON, Wish, prepare_dataset
from training.recipes import RecipeInvalid

EVEN = Options(validation_share=0.3, test_share=0.3)


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


def test_the_report_tells_the_final_splits(tmp_path: Path) -> None:
    made = make(tmp_path, facts(8), min_wordings=1)
    told = report(made)
    assert {name: count["rows"] for name, count in told["splits"].items()} == made.counts
    assert told["splits"]["test"]["groups"] == 8
    assert told["options"]["test_share"] == 0.3
    assert not any(found["code"] == "SPLITS" for found in told["findings"])
