"""Public sets become rows that training takes; what a set looks like is rebuilt here in small."""

import json
from pathlib import Path

import pytest

from benchmarks.public_sets import SETS, policyqa, pubmedqa, pubmedqa_closed, stackfaq


def lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_paraphrase_learns_how_the_shortest_answer_of_its_thread_begins(tmp_path: Path) -> None:
    corpus = [
        {"_id": "d1_0", "text": "long " * 100},
        {"_id": "d1_1", "text": "short"},
        {"_id": "d1_2", "text": "other"},
    ]
    lines(tmp_path / "stackfaq" / "corpus.jsonl", corpus)
    lines(tmp_path / "stackfaq" / "queries.jsonl", [{"_id": "q1_0", "text": "how?"}])
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q1_0\td1_{n}\t1\n" for n in range(3))
    (tmp_path / "stackfaq" / "qrels.tsv").write_text(qrels)
    (row,) = stackfaq(tmp_path)
    assert row["answers"] == ["short", "long " * 100, "other"]
    assert (row["question"], row["group"]) == ("how?", "q1")
    lines(
        tmp_path / "stackfaq" / "corpus.jsonl", [{**doc, "text": f"{'word ' * 40}{n}"} for n, doc in enumerate(corpus)]
    )
    (row,) = stackfaq(tmp_path)
    assert row["answers"][0] == ("word " * 24).strip()
    assert len(row["answers"]) == 4


def test_a_question_about_a_policy_comes_with_its_site_and_passage(tmp_path: Path) -> None:
    asked = [
        {"id": "a", "question": "who?", "answers": [{"text": "us"}, {"text": "us"}]},
        {"id": "b", "question": "why?", "answers": [{"text": " "}]},
    ]
    site = {"title": "example.com", "paragraphs": [{"context": "It is us.", "qas": asked}]}
    (tmp_path / "policyqa").mkdir()
    (tmp_path / "policyqa" / "dev.json").write_text(json.dumps({"data": [site]}))
    (row,) = policyqa(tmp_path)
    assert (row["answers"], row["context"], row["group"]) == (["us"], "It is us.", "example.com")


def test_official_test_questions_are_reserved_and_the_abstract_can_be_left_out(tmp_path: Path) -> None:
    entry = {"QUESTION": "Does it?", "CONTEXTS": ["It may."], "final_decision": "maybe"}
    (tmp_path / "pubmedqa").mkdir()
    (tmp_path / "pubmedqa" / "ori_pqal.json").write_text(json.dumps({"1": entry, "2": entry}))
    (tmp_path / "pubmedqa" / "test_ground_truth.json").write_text(json.dumps({"2": "maybe"}))
    rows = list(pubmedqa(tmp_path))
    assert [row.get("split") for row in rows] == [None, "test"]
    assert rows[0]["text"] == "It may.\n\nQuestion: Does it?"
    assert [row["text"] for row in pubmedqa_closed(tmp_path)] == ["Does it?"] * 2


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name, chosen in SETS.items():
        with pytest.raises(FileNotFoundError) as missing:
            list(chosen.rows(tmp_path))
        assert name.split("-")[0] in str(missing.value.filename)
