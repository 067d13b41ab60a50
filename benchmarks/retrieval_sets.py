"""Turns public sets into folders in BEIR layout. The sets are not part of this repository.

Each writer takes the folder that holds the sets, and raises FileNotFoundError where its set is not there.
"""

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

from benchmarks.public_sets import Row

Qrel = tuple[str, str, int]
_MEDQUAD_QUERIES = 1_000


def scifact(data: Path) -> tuple[Iterable[Row], Iterable[Row], Iterable[Qrel]]:
    """Returns claims and the abstracts that support or contradict them (BEIR, test split)."""
    folder = data / "scifact"
    return _lines(folder / "corpus.jsonl.gz"), _lines(folder / "queries.jsonl"), _qrels(folder / "qrels.test.tsv")


def stackfaq(data: Path) -> tuple[Iterable[Row], Iterable[Row], Iterable[Qrel]]:
    """Returns paraphrased questions and the answers of their threads."""
    folder = data / "stackfaq"
    return _lines(folder / "corpus.jsonl"), _lines(folder / "queries.jsonl"), _qrels(folder / "qrels.tsv")


def squad_rag(data: Path) -> tuple[Iterable[Row], Iterable[Row], Iterable[Qrel]]:
    """Returns the questions that have an answer, and the passages of 49 articles."""
    asked = [row for row in _lines(data / "squad_rag" / "questions.jsonl") if not row.get("is_impossible")]
    queries = [{"_id": row["_id"], "text": row["question"]} for row in asked]
    qrels = [(row["_id"], row["gold"], 1) for row in asked]
    return _lines(data / "squad_rag" / "corpus.jsonl.gz"), queries, qrels


def medquad(data: Path) -> tuple[Iterable[Row], Iterable[Row], Iterable[Qrel]]:
    """Returns a thousand drawn questions to the NIH and all answers; each text of either is there once.

    The title, which names the disease, is left out: the question names it too, and it would be found by that alone.
    """
    answers: dict[str, str] = {}
    asked: dict[str, dict[str, int]] = defaultdict(dict)
    for row in _lines(data / "medquad" / "medquad_qa.jsonl.gz"):
        answer = (row.get("answer") or "").strip()
        if answer and row["question"].strip():
            name = answers.setdefault(answer, f"a{len(answers)}")
            asked[" ".join(row["question"].split())][name] = 1
    chosen = sorted(Random(1).sample(sorted(asked), min(_MEDQUAD_QUERIES, len(asked))))  # noqa: S311
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(chosen)]
    qrels = [(f"q{n}", name, 1) for n, text in enumerate(chosen) for name in asked[text]]
    return ({"_id": name, "title": "", "text": text} for text, name in answers.items()), queries, qrels


SETS: dict[str, Callable[[Path], tuple[Iterable[Row], Iterable[Row], Iterable[Qrel]]]] = {
    "scifact": scifact,
    "stackfaq": stackfaq,
    "squad_rag": squad_rag,
    "medquad": medquad,
}


def group_of(name: str, query: str) -> str:
    """Returns what a query shares with others that are like it: wordings of one thread are not independent."""
    return query.split("_")[0] if name == "stackfaq" else query


def halves(name: str, queries: Iterable[str], *, seed: int) -> tuple[list[str], list[str]]:
    """Returns the queries to tune on and those to report on; a group is in one of them, as a whole."""
    queries = list(queries)
    groups = sorted({group_of(name, query) for query in queries})
    tuned = set(Random(seed).sample(groups, len(groups) // 2))  # noqa: S311
    return (
        [query for query in queries if group_of(name, query) in tuned],
        [query for query in queries if group_of(name, query) not in tuned],
    )


def write(name: str, data: Path, folder: Path) -> Path:
    """Writes a set as a folder in BEIR layout, unless it is there."""
    if (folder / "qrels.tsv").exists():
        return folder
    corpus, queries, qrels = SETS[name](data)
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        with (folder / file).open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _qrels(path: Path) -> Iterator[Qrel]:
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            yield row["query-id"], row["corpus-id"], int(row["score"])
