"""Lays out folders that `tandem evaluate arms` and `tandem calibrate` take, from the sample company and public sets.

A folder has questions.jsonl (the test part), calibration.jsonl, train.jsonl (what the adapter learns) and, but for the
sample company, documents.jsonl. No question is in two of them. The public sets are not part of this repository: a
builder raises FileNotFoundError where its set is not there.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.public_sets import Row

COMPANY_TENANT = "halden"
_STRANGER = "erin"  # sees every group's documents
_SHARES = (0.35, 0.35)
"""Of squad_rag's articles: those trained on, those to calibrate on; the others test."""
_MIXED_TEST, _MIXED_CALIBRATION = 169, 300
_SEED = 17


def company(source: Path, folder: Path) -> Path:
    """Lays out one tenant of the sample company; its documents are ingested by `tandem up --sample`.

    Static is what the answer adapter has learnt: lasting facts that the whole tenant may know, in other words.
    """
    learnt = {
        fact["fact_id"]: "static" if fact["volatility"] == "static" and not fact["groups"] else "volatile"
        for fact in _lines(source / "facts.jsonl")
        if fact["tenant"] == COMPANY_TENANT and (fact["volatility"] != "static" or not fact["groups"])
    }
    principals = json.loads((source / "principals.json").read_text(encoding="utf-8"))
    files = {"questions.jsonl": "test", "calibration.jsonl": "calibration"}
    for name, split in files.items():
        rows = (row for row in _lines(source / "questions" / f"{split}.jsonl") if row["tenant"] == COMPANY_TENANT)
        asked = (_asked(row, learnt, principals) for row in rows)
        # One who is in all groups is kept from nothing.
        _write(
            folder / name, (one for one in asked if (one["label"], one["principal"]) != ("not_permitted", _STRANGER))
        )
    own = [row for row in _lines(source / "questions" / "train.jsonl") if row["tenant"] == COMPANY_TENANT]
    told = [row for row in own if row["label"] == "static" and not row["groups"] and not row["history"]]
    told += [row for row in _lines(source / "questions" / "paraphrases.jsonl") if row["tenant"] == COMPANY_TENANT]
    _write(folder / "train.jsonl", ({"question": row["question"], "answers": row["answers"]} for row in told))
    return folder


def _asked(row: Row, learnt: dict[str, str], principals: dict[str, Any]) -> Row:
    """Returns a question as the tenant's principal who is in just its groups asks it, else one who is in all."""
    fits = [
        name
        for name, one in principals.items()
        if one["tenant"] == COMPANY_TENANT and sorted(one["groups"]) == sorted(row["groups"]) and "user" in one["roles"]
    ]
    answerable = row["label"] not in ("not_permitted", "out_of_scope")
    return {
        "question_id": row["question_id"],
        "question": row["question"],
        "answers": row["answers"] if answerable else [],
        "gold_document_ids": row["gold_documents"] if answerable else [],
        "group": row["fact_id"] or row["question_id"],
        "kind": learnt.get(row["fact_id"], "") if answerable else "",
        "source": "company",
        "principal": fits[0] if fits else _STRANGER,
        "history": row["history"],
        "label": row["label"],
    }


def squad_rag(data: Path, folder: Path) -> Path:
    """Lays out squad_rag, whole articles to a part; a group is a passage."""
    passages = {row["_id"]: row for row in _lines(data / "squad_rag" / "corpus.jsonl.gz")}
    _write(folder / "documents.jsonl", map(_document, passages.values()))
    parts = _squad_parts(data, passages)
    for name, part in zip(("train.jsonl", "calibration.jsonl", "questions.jsonl"), parts, strict=True):
        _write(folder / name, part)
    return folder


def squad_training(data: Path) -> Iterator[Row]:
    """Yields what an adapter learns of squad_rag: questions of the part to train on, each with its passage."""
    passages = {row["_id"]: row for row in _lines(data / "squad_rag" / "corpus.jsonl.gz")}
    for row in _squad_parts(data, passages)[0]:
        passage = passages[row["group"]]
        if row["answers"]:
            asked = {"id": row["question_id"], "question": row["question"], "answers": row["answers"]}
            yield {**asked, "context": passage["text"], "title": passage["title"], "group": passage["title"]}


def _squad_parts(data: Path, passages: dict[str, Row]) -> list[list[Row]]:
    rows = [
        {
            "question_id": row["_id"],
            "question": row["question"].strip(),
            "answers": [] if row.get("is_impossible") else list(dict.fromkeys(filter(str.strip, row["answers"]))),
            "gold_document_ids": [row["gold"]],
            "group": row["gold"],
            "kind": "volatile",
            "source": "squad_rag",
        }
        for row in _lines(data / "squad_rag" / "questions.jsonl")
    ]
    once = _once(rows)
    article = {name: row["title"] for name, row in passages.items()}
    articles = sorted({article[row["group"]] for row in once})
    Random(_SEED).shuffle(articles)  # noqa: S311 -- a split
    first, second = (round(sum(_SHARES[: end + 1]) * len(articles)) for end in range(2))
    part_of = {name: (place >= first) + (place >= second) for place, name in enumerate(articles)}
    return [[row for row in once if part_of[article[row["group"]]] == part] for part in range(3)]


def mixed(data: Path, prepared: Path, folder: Path) -> Path:
    """Lays out stackfaq (static, learnt by an adapter) and squad_rag (volatile, in passages) as one set.

    `prepared` is the dataset folder of stackfaq that the adapter was trained on: its splits are kept. Documents are the
    passages of both; an answer about stackfaq is right where it is nearest to one of its thread's.
    """
    splits = {split: [_faq(row) for row in _lines(prepared / f"{split}.jsonl")] for split in ("validation", "test")}
    passages = {row["_id"]: row for row in _lines(data / "squad_rag" / "corpus.jsonl.gz")}
    _, calibrating, testing = _squad_parts(data, passages)
    documents = [*passages.values(), *_lines(data / "stackfaq" / "corpus.jsonl")]
    _write(folder / "documents.jsonl", map(_document, documents))
    learnt = (row["messages"][-1]["content"] for row in _lines(prepared / "train.jsonl"))
    _write(folder / "train.jsonl", ({"question": text} for text in learnt))
    taken = _once([*splits["validation"], *_some(calibrating, _MIXED_CALIBRATION)])
    _write(folder / "calibration.jsonl", taken)
    others = {row["question"].lower() for row in (*taken, *_lines(folder / "train.jsonl"))}
    tested = _once([*splits["test"], *_some(testing, _MIXED_TEST)])
    _write(folder / "questions.jsonl", (row for row in tested if row["question"].lower() not in others))
    return folder


def _faq(row: Row) -> Row:
    return {
        "question_id": row["id"],
        "question": row["messages"][-1]["content"],
        "answers": row["golds"],
        "group": row["group"],
        "kind": "static",
        "source": "stackfaq",
        "match": "nearest",
    }


def scope_texts(folder: Path, path: Path) -> Path:
    """Writes the questions of a folder for `tandem evaluate scope`: static ones are in, all others out."""
    rows = (
        {"text": row["question"], "label": "in" if row["kind"] == "static" else "out", "group": row["group"]}
        for row in _lines(folder / "questions.jsonl")
        if not row.get("history")
    )
    _write(path, rows)
    return path


def alone(questions: Path, path: Path) -> Path:
    """Copies a file of questions into a folder of its own, as `tandem evaluate arms` takes it; returns the folder."""
    _write(path, _lines(questions))
    return path.parent


def clinc150(data: Path, folder: Path) -> Path:
    """Writes clinc150's training questions (train.jsonl) and its test questions, in and out of scope (texts.jsonl)."""
    found = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    _write(folder / "train.jsonl", ({"text": text} for text, _ in found["train"]))
    inside = [{"text": text, "label": "in", "group": f"in {place}"} for place, (text, _) in enumerate(found["test"])]
    outside = [{"text": text, "label": "out", "group": f"out {n}"} for n, (text, _) in enumerate(found["oos_test"])]
    _write(folder / "texts.jsonl", [*inside, *outside])
    return folder


def _document(row: Row) -> Row:
    return {"document_id": row["_id"], "title": row.get("title") or "", "text": row["text"]}


def _some(rows: Sequence[Row], most: int) -> list[Row]:
    return Random(_SEED).sample(list(rows), min(most, len(rows)))  # noqa: S311 -- a part


def _once(rows: Iterable[Row]) -> list[Row]:
    return list({row["question"].lower(): row for row in rows}.values())


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
