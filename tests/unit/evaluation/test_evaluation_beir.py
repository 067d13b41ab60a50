"""A folder in BEIR layout is read as it is meant, and what is wrong is named with file and line."""

import gzip
import json
from pathlib import Path

import pytest

from evaluation.retrieval.beir import Entry, read
from tandem.errors import InvalidInput
from tests.fakes.evaluation import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = {"MED-1": "ash is grey", "MED-2": "bees hum"}
    queries = {"q1": "what is grey?", "q2": "what hums?", "q3": "what else?"}
    qrels = [("q1", "MED-1", 1), ("q1", "MED-2", 0), ("q2", "MED-2", 2)]
    return write_folder(tmp_path / "tiny", documents, queries, qrels, titles={"MED-1": "Ash"})


def test_documents_queries_and_grades_are_read(folder: Path) -> None:
    found = read(folder)
    assert list(found.entries()) == [Entry("MED-1", "Ash", "ash is grey"), Entry("MED-2", "", "bees hum")]
    assert found.queries == {"q1": "what is grey?", "q2": "what hums?"}
    assert found.judgements == {"q1": {"MED-1": 1, "MED-2": 0}, "q2": {"MED-2": 2}}
    assert found.notes == ["1 of 3 queries have no relevant document in this split and are not asked"]


def test_a_split_in_a_folder_of_its_own_comes_first_and_files_may_be_compressed(folder: Path) -> None:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text("q3\tMED-1\t1\n")  # no heading
    packed = folder / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    assert list(read(folder, split="dev").queries) == ["q3"]
    assert list(read(folder).queries) == ["q1", "q2"]
    assert [entry.name for entry in read(folder).entries()] == ["MED-1", "MED-2"]


def test_numbers_as_names_and_empty_lines_are_taken(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"_id": 7, "text": "x", "title": null}\n\n')
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\r\nq1\t7\t1\r\n\n")
    assert list(read(folder).entries()) == [Entry("7", "", "x")]


CORPUS_FAULTS = {
    "{": "line 2, is not a JSON object",
    "[1]": "line 2, is not a JSON object",
    "[" * 100_000: "line 2, is not a JSON object",
    '{"text": "x"}': 'line 2, has no "_id"',
    '{"_id": "", "text": "x"}': 'line 2, has no "_id" that is a string',
    '{"_id": "a"}': 'line 2, has no "text"',
    '{"_id": "a", "text": 5}': 'line 2, has no "text" that is a string',
    '{"_id": "a", "text": "x", "title": 5}': 'line 2, has a "title" that is no string',
    '{"_id": "a", "text": "\\ud800"}': "line 2, holds half of a surrogate pair",
    '{"_id": "first", "text": "x"}': "has the \"_id\" 'first' of line 1",
}


@pytest.mark.parametrize(("line", "told"), CORPUS_FAULTS.items(), ids=range(len(CORPUS_FAULTS)))
def test_a_bad_document_is_named_with_its_line(folder: Path, line: str, told: str) -> None:
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "first", "text": "x"}) + f"\n{line}\n")
    with pytest.raises(InvalidInput) as fault:
        read(folder)
    assert f"{folder}/corpus.jsonl, " in fault.value.message
    assert told in fault.value.message


QRELS_FAULTS = {
    "q1\tMED-1": "line 3, has 2 columns by tab",
    "q1 MED-1 1": "line 3, has 1 columns by tab",
    "q1\tMED-1\t0.5": "line 3, has the grade '0.5'",
    "q1\tMED-1\t3": "line 3, grades document 'MED-1' of query 'q1' a second time, differently",
}


@pytest.mark.parametrize(("line", "told"), QRELS_FAULTS.items())
def test_a_bad_judgement_is_named_with_its_line(folder: Path, line: str, told: str) -> None:
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\tMED-1\t1\n{line}\n")
    with pytest.raises(InvalidInput) as fault:
        read(folder)
    assert f"{folder}/qrels.tsv, {told}" in fault.value.message


def test_judgements_of_what_is_not_there_are_told_with_their_lines(folder: Path) -> None:
    lines = ["q1\tMED-1\t1", *(f"q1\tgone-{n}\t1" for n in range(4)), "q9\tMED-1\t1"]
    (folder / "qrels.tsv").write_text("\n".join(lines))
    found = read(folder)
    assert found.notes[:2] == [
        "qrels.tsv names 1 times a query that is not there (they are not asked): line 6",
        "qrels.tsv names 4 times a document that is not there (they count as never found): line 2, 3, 4 ...",
    ]
    assert len(found.judgements["q1"]) == 5  # recall is of all that are relevant
    (folder / "qrels.tsv").write_text("q9\tMED-1\t1\n")
    with pytest.raises(InvalidInput, match=r"no query of .* has a relevant document"):
        read(folder)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "x"}\n\xff\n')
    with pytest.raises(InvalidInput, match=r"queries.jsonl, line \d, or one soon after is not UTF-8"):
        read(folder)
    (folder / "queries.jsonl").write_text("\n")
    with pytest.raises(InvalidInput, match=r"queries.jsonl holds nothing"):
        read(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"lacks queries.jsonl"):
        read(folder)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match=r"corpus.jsonl.gz cannot be read"):
        read(folder)
    with pytest.raises(InvalidInput, match="is no folder"):
        read(folder / "nowhere")
