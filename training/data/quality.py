"""Looks for rows that a careful person would look at again: copies, contradictions, odd lengths, other languages."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from training.data.rows import Row
from training.data.words import asked, key

_MIN_ROWS = 20
"""Fewer rows have no usual length."""
_KEPT = ("test", "validation", "train", "")
"""Which of two copies stays, by the split that its file gives it: the first of these."""
_MIN_LETTERS = 40
"""Shorter texts are not told apart by language."""
_MAX_LETTERS = 2_000
_SURE = 0.95
_SECOND_LANGUAGE = 0.1
"""Share of the rows from which a language belongs to the data and is no outlier."""


def split_duplicates(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Returns the rows without exact copies, and the copies; of each the one most strictly held out stays.

    So a training row never takes the place of the reserved one that it repeats; else the first stays.
    """
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: _KEPT.index(row.split)):
        first.setdefault(row.content_hash(), row)
    kept = {row.id for row in first.values()}
    return [row for row in rows if row.id in kept], [row for row in rows if row.id not in kept]


def contradictions(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that ask the same as another one, in one of their wordings, and share no answer with it."""
    by_wording: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        for question, context in row.wordings() if row.answers_in else ():
            by_wording[asked(question), " ".join(context.casefold().split())][row.id] = row
    found: dict[str, Row] = {}
    for same in by_wording.values():
        answers = {name: {key(answer) for answer in row.answered()} or {""} for name, row in same.items()}
        counts = Counter(answer for given in answers.values() for answer in given)
        found |= {name: same[name] for name, given in answers.items() if not any(counts[a] == len(same) for a in given)}
    return list(found.values())


def length_outliers(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns by field the rows whose number of words lies far from the usual, on a logarithmic scale.

    Far is beyond 5 robust standard deviations (1.4826 x the median absolute deviation, at least 0.2).
    """
    found: dict[str, list[Row]] = {}
    for name, lengths in _words(rows).items():
        if len(lengths) < _MIN_ROWS:
            continue
        logs = [math.log(1 + count) for _, count in lengths]
        middle = statistics.median(logs)
        scale = max(0.2, 1.4826 * statistics.median(abs(value - middle) for value in logs))
        far = [row for (row, _), value in zip(lengths, logs, strict=True) if abs(value - middle) > 5 * scale]
        if far:
            found[name] = far
    return found


def length_summary(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Returns by field the least, the median, the 95th percentile and the greatest number of words."""
    found: dict[str, dict[str, int]] = {}
    for name, lengths in _words(rows).items():
        counts = sorted(count for _, count in lengths)
        places = {"min": 0, "median": len(counts) // 2, "p95": int(0.95 * (len(counts) - 1)), "max": -1}
        found[name] = {key: counts[place] for key, place in places.items()}
    return found


def _words(rows: Sequence[Row]) -> dict[str, list[tuple[Row, int]]]:
    lengths: dict[str, list[tuple[Row, int]]] = defaultdict(list)
    for row in rows:
        for name, text in row.texts().items():
            lengths[name].append((row, len(text.split())))
    return dict(lengths)


def languages(
    rows: Sequence[Row], *, on_progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, int], dict[str, list[Row]]]:
    """Returns the number of rows by language, and the rows of languages that are rare here.

    Rows that are short, or of which the identifier is not sure, count as "?". The model comes with its library
    (py3langid, 97 languages) and is loaded at the first call.
    """
    identifier = _identifier()
    by_language: dict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        text = " ".join(" ".join(row.texts().values()).split())[:_MAX_LETTERS]
        name, confidence = identifier.classify(text)
        letters = sum(character.isalpha() for character in text)
        by_language[name if letters >= _MIN_LETTERS and confidence >= _SURE else "?"].append(row)
        if on_progress:
            on_progress("telling languages", number, len(rows))
    counts = dict(sorted(((name, len(found)) for name, found in by_language.items()), key=lambda c: (-c[1], c[0])))
    told = sum(count for name, count in counts.items() if name != "?")
    rare = {
        name: found
        for name, found in sorted(by_language.items())
        if name != "?" and len(found) < _SECOND_LANGUAGE * told
    }
    return counts, rare


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def label_counts(rows: Sequence[Row]) -> Mapping[str, int]:
    """Returns the number of rows by label, the most frequent first; nothing for other kinds."""
    labels = Counter(label for row in rows if row.kind == "classification" for label in row.answered())
    return dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))
