"""Reads a company folder: one tenant's facts, questions, documents and house style, as rows for the recipes.

Only what every member of the tenant may know goes into an adapter, because
an adapter answers all of them: facts of documents that are limited to groups
are left out, and so are facts that change too often to be learnt. The splits
are the folder's own: the calibration split validates.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.extraction import extract
from training.recipes.asked import Asked, Document, Written, drawn

SPLITS = {"train": "train", "validation": "calibration", "test": "test"}
"""The splits of a dataset, and the folder's files that they come from."""


class CompanyInvalid(ValueError):
    """Says what is wrong with a company folder."""


@dataclass(frozen=True)
class Company:
    """Is one tenant's share of a company folder."""

    folder: Path
    tenant: str
    facts: dict[str, dict[str, Any]]
    """Facts that may be learnt, by fact_id."""
    paraphrases: list[Asked]
    questions: dict[str, list[dict[str, Any]]]
    """Rows of train, calibration and test for this tenant, as they are in the files."""
    manifest: list[dict[str, Any]]
    hashes: dict[str, str]
    """SHA-256 of each file that was read, by its path in the folder."""

    def closed_book(self) -> dict[str, list[Asked]]:
        """Returns questions about facts that may be learnt: every fact in train, other wordings in the other splits."""
        shortest = {row.group: row.answers for row in self.paraphrases}
        splits = {name: self._about_facts(file) for name, file in SPLITS.items()}
        # One fact, one answer to learn, however its questions spell it.
        train = [_with_answers(row, shortest.get(row.group, row.answers)) for row in splits["train"]]
        splits["train"] = [*self.paraphrases, *train]
        learnt = {row.group for row in splits["train"]}
        return {name: [row for row in rows if row.group in learnt] for name, rows in splits.items()}

    def raft(self) -> dict[str, list[Asked]]:
        """Returns the questions that stand alone, those that nothing may answer among them; split by fact.

        What only restricted or superseded documents answer is left out: an adapter answers its whole tenant.
        """
        readable = {row["document_id"] for row in self._readable()}
        return {
            name: [
                _asked(row)
                for row in self.questions[file]
                if not row.get("history")
                and (not row["gold_documents"] or readable.intersection(row["gold_documents"]))
            ]
            for name, file in SPLITS.items()
        }

    def documents(self) -> list[Document]:
        """Returns the tenant's documents that everyone in it may read and that are still valid."""
        return [Document(row["document_id"], self._text(row["path"]), row["title"]) for row in self._readable()]

    def _text(self, path: str) -> str:
        """Returns a document's text; raises CompanyInvalid where there is none, as in a scan."""
        text = extract(self.folder / path)
        if not text.strip():
            raise CompanyInvalid(
                f"{self.folder / path} holds no text that can be extracted; take it out of the manifest"
            )
        return text

    def _readable(self) -> list[dict[str, Any]]:
        return [row for row in self.manifest if not row["groups"] and row["valid_until"] is None]

    def _about_facts(self, file: str) -> list[Asked]:
        return [
            _asked(row)
            for row in self.questions[file]
            if row.get("fact_id") in self.facts and row["answers"] and not row.get("history")
        ]


def is_company(folder: Path) -> bool:
    """Tells whether the folder is laid out like the sample company."""
    return (folder / "manifest.jsonl").is_file() and (folder / "facts.jsonl").is_file()


def read_company(folder: Path, tenant: str) -> Company:
    """Reads one tenant's share of the folder; raises CompanyInvalid where a file or the tenant is missing."""
    names = ["manifest.jsonl", "facts.jsonl", "questions/paraphrases.jsonl"]
    names += [f"questions/{split}.jsonl" for split in SPLITS.values()]
    rows = {name: _rows(folder / name) for name in names}
    manifest = [row for row in rows["manifest.jsonl"] if row["tenant"] == tenant]
    if not manifest:
        tenants = sorted({row["tenant"] for row in rows["manifest.jsonl"]})
        raise CompanyInvalid(f"{folder} has no tenant {tenant}; it has {', '.join(tenants)}")
    open_documents = {row["document_id"] for row in manifest if not row["groups"]}
    facts = {
        row["fact_id"]: row
        for row in rows["facts.jsonl"]
        if row.get("tenant", tenant) == tenant
        and row["document_id"] in open_documents
        and not row.get("groups")
        and row["volatility"] == "static"
    }
    paraphrases = [
        Asked(
            id=row["paraphrase_id"],
            group=row["fact_id"],
            question=row["question"],
            answers=tuple(dict.fromkeys((row["answer"], *row["answers"]))),
        )
        for row in rows["questions/paraphrases.jsonl"]
        if row["fact_id"] in facts
    ]
    questions = {
        file: [row for row in rows[f"questions/{file}.jsonl"] if row["tenant"] == tenant] for file in SPLITS.values()
    }
    hashes = {name: _sha256(folder / name) for name in names}
    hashes |= {row["path"]: _sha256(folder / row["path"]) for row in manifest if not row["groups"]}
    return Company(folder, tenant, facts, paraphrases, questions, manifest, hashes)


def read_style(folder: Path, *, seed: int) -> tuple[dict[str, list[Written]], dict[str, str]]:
    """Returns the letters, summaries and reports in the house style by split, and the files' hashes."""
    splits: dict[str, list[Written]] = {"train": [], "validation": [], "test": []}
    names = ("style/letters.jsonl", "style/summaries.jsonl")
    for row in (row for name in names for row in _rows(folder / name)):
        place = drawn(seed, row["id"])
        split = "train" if place < 0.6 else "validation" if place < 0.75 else "test"
        written = Written(id=row["id"], group=row["id"], prompt=row["brief"], text=row["text"], kind=row["kind"])
        splits[split].append(written)
    return splits, {name: _sha256(folder / name) for name in names}


def _asked(row: dict[str, Any]) -> Asked:
    return Asked(
        id=row["question_id"],
        group=row.get("fact_id") or row["question_id"],
        question=row["question"],
        answers=tuple(row["answers"]),
        documents=tuple(row["gold_documents"]),
    )


def _with_answers(row: Asked, answers: tuple[str, ...]) -> Asked:
    return Asked(id=row.id, group=row.group, question=row.question, answers=answers, documents=row.documents)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as stream:
            return [json.loads(line) for line in stream if line.strip()]
    except OSError as error:
        raise CompanyInvalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CompanyInvalid(f"{path} is not JSON Lines: {error}") from error


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CompanyInvalid(f"{path} cannot be read: {error.strerror}") from error
