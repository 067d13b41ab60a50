"""Reads labelled answers, one JSON object a line.

    {"context": "...", "question": "...", "answer": "...", "label": 1}

`context` is a text or a list of texts, the passages; `label` is 1 or true where they support the whole answer, 0 or
false where they do not. `question` may be absent. `group` may name what belongs together (answers about one context):
intervals draw whole groups; by default the context is the group. The file may be compressed (.gz).
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import InvalidInput

MAX_QUESTION, MAX_ANSWER, MAX_PASSAGES, MAX_PASSAGE, MAX_CHARACTERS = 4096, 8192, 20, 65_536, 131_072
"""What the router's Ground takes."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Is one labelled answer."""

    context: tuple[str, ...]
    question: str
    answer: str
    supported: bool
    group: str


def read(path: Path) -> list[Case]:
    """Reads and checks a file; raises InvalidInput with the line of what cannot be used."""
    if not path.is_file():
        raise InvalidInput.of("--data", f"{path} is no file")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = data.decode("utf-8").split("\n")
    cases = [_case(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len({case.supported for case in cases}) < 2:
        raise InvalidInput.of("--data", f"{path} needs answers with label 1 and answers with label 0")
    return cases


def _case(line: str, place: str) -> Case:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput.of("--data", f"{place} is no JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise InvalidInput.of("--data", f"{place} is no JSON object")
    context = [row.get("context")] if isinstance(row.get("context"), str) else row.get("context")
    if not isinstance(context, list) or not context or not all(isinstance(text, str) and text for text in context):
        raise InvalidInput.of("--data", f'{place}: "context" is a text or a list of texts, none empty')
    if len(context) > MAX_PASSAGES or max(map(len, context)) > MAX_PASSAGE or sum(map(len, context)) > MAX_CHARACTERS:
        most = f"{MAX_PASSAGES} texts of {MAX_PASSAGE} characters, {MAX_CHARACTERS} together"
        raise InvalidInput.of("--data", f'{place}: "context" is at most {most}')
    question = _text(row.get("question", ""), "question", place, most=MAX_QUESTION)
    answer = _text(row.get("answer"), "answer", place, most=MAX_ANSWER)
    if not answer:
        raise InvalidInput.of("--data", f'{place}: "answer" is empty')
    if row.get("label") not in (0, 1):
        raise InvalidInput.of("--data", f'{place}: "label" is 1 (supported) or 0')
    group = str(row.get("group") or "\n".join(context))
    return Case(context=tuple(context), supported=bool(row["label"]), group=group, question=question, answer=answer)


def _text(value: Any, name: str, place: str, *, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise InvalidInput.of("--data", f'{place}: "{name}" is a text of at most {most} characters')
    return value
