"""Turns public question sets into the rows that `tandem train` takes. The sets are not part of this repository.

Each reader takes the folder that holds the sets, yields rows, and raises
FileNotFoundError where its set is not there.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_LONGEST_ANSWER = 120  # characters; a longer one teaches an adapter of this size to ramble


def stackfaq(data: Path) -> Iterator[Row]:
    """Yields each paraphrase with the answers of its thread; to learn is how the shortest of them begins."""
    folder = data / "stackfaq"
    answers = {row["_id"]: row["text"] for row in _lines(folder / "corpus.jsonl")}
    found: dict[str, list[str]] = defaultdict(list)
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            found[row["query-id"]].append(answers[row["corpus-id"]])
    for query in _lines(folder / "queries.jsonl"):
        texts = found[query["_id"]]
        texts = list(dict.fromkeys((_beginning(min(texts, key=len)), *texts)))
        yield {"id": query["_id"], "question": query["text"], "answers": texts, "group": query["_id"].split("_")[0]}


def stackfaq_answers(data: Path) -> Iterator[Row]:
    """Yields the answers of all threads as documents to read from."""
    for row in _lines(data / "stackfaq" / "corpus.jsonl"):
        yield {"document_id": row["_id"], "text": row["text"]}


def policyqa(data: Path) -> Iterator[Row]:
    """Yields the questions about privacy policies with the passage that answers them; a group is a site."""
    for site in json.loads((data / "policyqa" / "dev.json").read_text(encoding="utf-8"))["data"]:
        for paragraph in site["paragraphs"]:
            for question in paragraph["qas"]:
                answers = list(
                    dict.fromkeys(answer["text"] for answer in question["answers"] if answer["text"].strip())
                )
                if answers:
                    yield {
                        "id": question["id"],
                        "question": question["question"],
                        "answers": answers,
                        "context": paragraph["context"],
                        "title": site["title"],
                        "group": site["title"],
                    }


def pubmedqa(data: Path) -> Iterator[Row]:
    """Yields the expert questions with their abstracts and yes, no or maybe; the official test ids are reserved."""
    return _pubmedqa(data, with_abstract=True)


def pubmedqa_closed(data: Path) -> Iterator[Row]:
    """Yields the same questions without their abstracts."""
    return _pubmedqa(data, with_abstract=False)


def _pubmedqa(data: Path, *, with_abstract: bool) -> Iterator[Row]:
    folder = data / "pubmedqa"
    reserved = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    for number, entry in json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8")).items():
        question, abstract = entry["QUESTION"], "\n".join(entry["CONTEXTS"])
        text = f"{abstract}\n\nQuestion: {question}" if with_abstract else question
        row = {"id": number, "text": text, "label": entry["final_decision"], "group": number}
        yield {**row, "split": "test"} if number in reserved else row


def _beginning(text: str) -> str:
    """Returns as many whole words as are not too long to be learnt."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_ANSWER else text[:_LONGEST_ANSWER].rpartition(" ")[0]


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


@dataclass(frozen=True)
class TrainingSet:
    """Is a set of questions and how an adapter is made from it."""

    rows: Callable[[Path], Iterator[Row]] | None
    """None: the sample company's own."""
    about: str
    prepare: tuple[str, ...]
    """Options of `tandem train prepare`."""
    run: tuple[str, ...] = ("--epochs", "6", "--minutes", "6")
    """Options of `tandem train run`."""
    evaluate: tuple[str, ...] = ()
    """Options of `tandem train evaluate`."""
    documents: Callable[[Path], Iterator[Row]] | None = None
    """What is read from, where it does not come with the questions."""


SETS = {
    "stackfaq": TrainingSet(
        stackfaq,
        "support FAQ: other wordings of what 125 threads answer; right is an answer nearest to one of the thread's",
        prepare=("--recipe", "closed-book", "--wordings", "1"),
        run=("--epochs", "12", "--minutes", "8"),
        evaluate=("--by-thread",),
        documents=stackfaq_answers,
    ),
    "policyqa": TrainingSet(
        policyqa,
        "legal: privacy policies, questions about sites that were not trained on",
        prepare=("--recipe", "raft", "--test-share", "0.4"),
        run=("--epochs", "0.4"),
    ),
    "pubmedqa": TrainingSet(
        pubmedqa,
        "healthcare: yes, no or maybe from the abstract, official test ids",
        prepare=("--recipe", "classification"),
    ),
    "pubmedqa-closed": TrainingSet(
        pubmedqa_closed,
        "the same without the abstract",
        prepare=("--recipe", "classification"),
        run=("--epochs", "3", "--minutes", "3"),
    ),
}
