"""Reads the company's facts, questions and documents, and builds what an adapter learns from.

Only what every member of the tenant may know goes into an adapter, because
an adapter answers all of them: facts of documents that are limited to groups
are left out, and so are facts that change too often to be learnt.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tandem.prompts import Message
from training.loop import Example


@dataclass(frozen=True)
class Question:
    """Is a question with the answers that count as right, the first of them the one to learn."""

    fact_id: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Company:
    """Is one tenant's share of a company folder."""

    tenant: str
    facts: dict[str, dict[str, Any]]
    """Facts that may be learnt, by fact_id."""
    paraphrases: list[Question]
    splits: dict[str, list[dict[str, Any]]]
    """Rows of train, calibration and test for this tenant, as they are in the files."""
    manifest: list[dict[str, Any]]
    hashes: dict[str, str]
    """SHA-256 of each file that was read, by its path in the folder."""

    def wordings(self, split: str) -> list[Question]:
        """Returns the split's questions about learnable facts, as far as they stand alone."""
        return [
            Question(row["fact_id"], row["question"], tuple(row["answers"]))
            for row in self.splits[split]
            if row.get("fact_id") in self.facts and row["answers"] and not row.get("history")
        ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSON Lines file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def sha256(path: Path) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_company(folder: Path, tenant: str) -> Company:
    """Reads one tenant's share of the folder; raises FileNotFoundError where a file is missing."""
    names = ["manifest.jsonl", "facts.jsonl", "questions/paraphrases.jsonl"]
    names += [f"questions/{split}.jsonl" for split in ("train", "calibration", "test")]
    rows = {name: read_rows(folder / name) for name in names}
    manifest = [row for row in rows["manifest.jsonl"] if row["tenant"] == tenant]
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
        Question(row["fact_id"], row["question"], (row["answer"], *row["answers"]))
        for row in rows["questions/paraphrases.jsonl"]
        if row["fact_id"] in facts
    ]
    splits = {
        split: [row for row in rows[f"questions/{split}.jsonl"] if row["tenant"] == tenant]
        for split in ("train", "calibration", "test")
    }
    hashes = {name: sha256(folder / name) for name in names}
    return Company(tenant, facts, paraphrases, splits, manifest, hashes)


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> Example:
    """Returns the example whose prompt is the rendered chat and whose target ends the assistant's turn."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    target = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example(tuple(prompt), (*target, tokenizer.eos_token_id))
