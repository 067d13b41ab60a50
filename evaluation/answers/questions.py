"""Reads labelled questions.

One JSON object a line:

    question_id         string, unique in the file
    question            string, 1 to 4,096 characters
    answers             list of strings, each of them right; empty where abstaining is right
    gold_document_ids   list of strings: documents that hold the answer; optional
    group               string: what the question belongs to, such as the fact it asks for. Questions of one group are
                        not independent and are drawn together. Absent: the question_id
    kind                "static" or "volatile"; optional
    source              string: the set that the question comes from; optional
    match               "words" (default): right is an answer in nearly the words of one of `answers`; "nearest": right
                        is one that is nearer to these answers than to those of any other group (of such questions)
    principal           string: who asks, by its name in credentials.json; optional
    history             list of {"question", "answer"}: earlier turns, oldest first; optional

Other keys are not read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import InvalidInput

KINDS = ("static", "volatile")
WORDS, NEAREST = "words", "nearest"
_MAX_QUESTION = 4096


@dataclass(frozen=True, kw_only=True)
class Question:
    """Is a labelled question; no answers mean that abstaining is right."""

    question_id: str
    question: str
    answers: tuple[str, ...]
    gold_document_ids: tuple[str, ...] = ()
    group: str
    kind: str = ""
    source: str = ""
    match: str = WORDS
    principal: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> str:
        """Is the SHA-256 of what is sent, and as whom: an answer kept from before counts only where it is the same."""
        text = json.dumps([self.question, self.history, self.principal], ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def read(path: Path) -> tuple[Question, ...]:
    """Returns the questions of a file; raises InvalidInput with file and line for what cannot be used."""
    found: dict[str, Question] = {}
    for line, row in lines(path):
        try:
            question = _question(row)
            if question.question_id in found:
                raise ValueError(f"question_id {question.question_id!r} was there before; give each its own")
        except ValueError as error:
            raise InvalidInput(f"{path}, line {line}: {error}") from None
        found[question.question_id] = question
    if not found:
        raise InvalidInput(f"{path} holds no question")
    return tuple(found.values())


def asked_in(path: Path) -> list[str]:
    """Returns what the lines of a file ask; raises InvalidInput where a line asks nothing."""
    found = []
    for line, row in lines(path):
        text = row.get("question", row.get("text"))
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"{path}, line {line}: a string `question` is needed")
        found.append(text)
    if not found:
        raise InvalidInput(f"{path} holds no question")
    return found


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of a file of JSON lines with their numbers; raises InvalidInput."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise InvalidInput(f"{path} cannot be read: {why}") from error
    # Not splitlines(): a JSON string may hold the line separators of Unicode.
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError):
            raise InvalidInput(f"{path}, line {line}: is no JSON") from None
        if not isinstance(row, dict):
            raise InvalidInput(f"{path}, line {line}: an object is needed")
        yield line, row


def _question(row: dict[str, Any]) -> Question:
    name, text = _text(row, "question_id"), _text(row, "question")
    if not name or not 1 <= len(text.strip()) <= len(text) <= _MAX_QUESTION:
        raise ValueError(f"question_id must not be empty, question has 1 to {_MAX_QUESTION} characters")
    if "answers" not in row:
        raise ValueError("answers is missing; write an empty list where abstaining is right")
    kind, match = _text(row, "kind"), _text(row, "match") or WORDS
    if kind not in ("", *KINDS) or match not in (WORDS, NEAREST):
        raise ValueError(f"kind is one of {', '.join(KINDS)}, or absent; match is {WORDS} or {NEAREST}")
    return Question(
        question_id=name,
        question=text,
        answers=_texts(row, "answers"),
        gold_document_ids=_texts(row, "gold_document_ids"),
        group=_text(row, "group") or name,
        kind=kind,
        source=_text(row, "source"),
        match=match,
        principal=_text(row, "principal"),
        history=_history(row.get("history") or []),
    )


def _text(row: dict[str, Any], key: str) -> str:
    found = row.get(key)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{key} is a string")
    return found or ""


def _texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    found = row.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
        raise ValueError(f"{key} is a list of strings that are not empty")
    return tuple(found)


def _history(found: Any) -> tuple[tuple[str, str], ...]:
    try:
        turns = tuple((turn["question"], turn.get("answer", "")) for turn in found)
    except (TypeError, KeyError, AttributeError):
        turns = ((None, None),)
    if not all(isinstance(part, str) for turn in turns for part in turn):
        raise ValueError("history is a list of objects with question and answer")
    return turns
