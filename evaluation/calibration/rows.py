"""Reads labelled answers: what was known of each, and whether it was right.

One JSON object a line:

    question_id        string, unique in the file
    group              string: what the question belongs to, such as the fact it asks for. Questions of one group are
                       not independent: a group is split as a whole and counts once. Absent: the question_id
    features           object of numbers by name (FEATURES), null or absent where not known; "abstained": true where
                       the adapter gave no answer
    correct            true or false: whether the adapter's answer is right
    evidence_correct   true, false or null: whether the answer from passages is right; optional, for the ensemble
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import InvalidInput

FEATURES = (
    "mean_logprob",
    "min_logprob",
    "mean_entropy",
    "max_entropy",
    "mean_margin",
    "min_margin",
    "num_tokens",
    "scope_distance",
    "top_score",
    "score_gap",
    "agreement",
)
_KEYS = frozenset(("question_id", "group", "features", "correct", "evidence_correct"))


@dataclass(frozen=True)
class Row:
    """Is one labelled answer; features holds those that are known."""

    question_id: str
    group: str
    features: dict[str, float]
    correct: bool
    abstained: bool = False
    evidence_correct: bool | None = None


@dataclass(frozen=True)
class Answers:
    """Holds the rows of a file and the SHA-256 of its bytes."""

    rows: tuple[Row, ...]
    data_sha256: str


def read(path: Path) -> Answers:
    """Returns the rows of a file; raises InvalidInput with file and line for what cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for line, text in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = _row(_loaded(text))
            if (before := seen.setdefault(row.question_id, line)) != line:
                raise ValueError(f"question_id is that of line {before}; give each its own")
        except ValueError as error:
            raise InvalidInput(f"{path}, line {line}: {error}") from error
        rows.append(row)
    return Answers(tuple(rows), hashlib.sha256(data).hexdigest())


def shared_features(rows: Sequence[Row], wanted: Sequence[str] | None = None) -> tuple[tuple[str, ...], list[str]]:
    """Returns the features that every answer has, in the order of FEATURES, and notes on what was left out.

    Raises InvalidInput where one of those wanted is unknown or missing somewhere, or where none is left.
    """
    for name in wanted or ():
        if name not in FEATURES:
            raise InvalidInput(f"there is no feature {name!r}; there are {', '.join(FEATURES)}")
    given = [row for row in rows if not row.abstained]
    names, notes = [], []
    for name in FEATURES:
        if wanted is not None and name not in wanted:
            continue
        missing = [row.question_id for row in given if name not in row.features]
        if not missing:
            names.append(name)
        elif wanted is not None:
            raise InvalidInput(f"{name} is missing in {len(missing)} answers, such as {missing[0]!r}; leave it out")
        elif len(missing) < len(given):
            notes.append(f"{name} is left out: {len(missing)} of {len(given)} answers lack it, such as {missing[0]!r}")
    if not names or not given:
        raise InvalidInput("no feature is known of every answer; collect mean_logprob at least")
    return tuple(names), notes


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON object") from None


def _row(found: Any) -> Row:
    if not isinstance(found, dict) or not {"question_id", "features", "correct"} <= set(found) <= _KEYS:
        raise ValueError(f"an object with question_id, features and correct is needed, and at most {sorted(_KEYS)}")
    name, group = found["question_id"], found.get("group", found["question_id"])
    if not isinstance(name, str) or not name or not isinstance(group, str) or not group:
        raise ValueError("question_id and group are strings that are not empty")
    evidence = found.get("evidence_correct")
    if not isinstance(found["correct"], bool) or not (evidence is None or isinstance(evidence, bool)):
        raise ValueError("correct is true or false, evidence_correct may be null as well")
    features = found["features"]
    if not isinstance(features, dict) or not isinstance(features.get("abstained", False), bool):
        raise ValueError("features is an object; abstained in it is true or false")
    known = {key: _number(key, value) for key, value in features.items() if key != "abstained" and value is not None}
    return Row(name, group, known, found["correct"], features.get("abstained", False), evidence)


def _number(name: str, value: Any) -> float:
    if name not in FEATURES:
        raise ValueError(f"there is no feature {name!r}; there are {', '.join(FEATURES)} and abstained")
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or math.isnan(value):
        raise ValueError(f"{name} is {str(value)[:40]}, not a number; write null where it is not known")
    return float(value)
