"""Reads what an evaluation measured of each policy: the JSON that `tandem evaluate arms` writes.

A list "arms" of objects with policy, accuracy, low, high (0 to 1), num_questions and metric, and where they were
measured p95_ms, cost, num_calls and "behind", which has {"low": -1 to 1} by the names of other policies. Other keys are
not read. Arms that are no policy of this router, such as the base model alone, are left out.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from services.router.domain.domains import ArmResult

_MAX_BYTES = 16 * 1024 * 1024
_MOST = 1e12


class ResultsInvalid(ValueError):
    """Says why results cannot be used, and what to do about it."""


def read_results(path: Path, policies: Collection[str]) -> tuple[ArmResult, ...]:
    """Returns the results of a file in its order; raises ResultsInvalid."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ResultsInvalid(f"has more than {_MAX_BYTES >> 20} MiB; those are no results")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsInvalid(f"cannot be read: {error.strerror}; write it with `tandem evaluate arms`") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ResultsInvalid):
            raise
        raise ResultsInvalid("is no JSON; write it with `tandem evaluate arms`") from None
    rows = document.get("arms") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ResultsInvalid('has no list "arms" of objects; write it with `tandem evaluate arms`')
    arms = tuple(_arm(row, f"arms[{place}]") for place, row in enumerate(rows) if row.get("policy") in policies)
    if len({arm.policy for arm in arms}) != len(arms):
        raise ResultsInvalid("has a policy twice; evaluate each once, on the same questions")
    return arms


def _arm(row: Mapping[str, Any], place: str) -> ArmResult:
    accuracy, low, high = (_number(row, key, place, most=1) for key in ("accuracy", "low", "high"))
    if not low <= accuracy <= high:
        raise ResultsInvalid(f"{place}: the accuracy lies outside its interval; evaluate anew")
    num_questions, metric = row.get("num_questions"), row.get("metric")
    if type(num_questions) is not int or not 0 <= num_questions <= _MOST:
        raise ResultsInvalid(f"{place}.num_questions is no count; evaluate anew")
    if not isinstance(metric, str) or not metric:
        raise ResultsInvalid(f"{place}.metric is no word; evaluate anew")
    return ArmResult(
        policy=row["policy"],
        accuracy=accuracy,
        low=low,
        high=high,
        num_questions=num_questions,
        metric=metric,
        **{key: None if row.get(key) is None else _number(row, key, place) for key in ("p95_ms", "cost", "num_calls")},
        behind=_behind(row.get("behind", {}), f"{place}.behind"),
    )


def _behind(gaps: Any, place: str) -> dict[str, float]:
    if not isinstance(gaps, dict) or not all(isinstance(gap, dict) for gap in gaps.values()):
        raise ResultsInvalid(f"{place} holds no intervals by policy; evaluate anew")
    return {other: _number(gap, "low", f"{place}.{other}", least=-1, most=1) for other, gap in gaps.items()}


def _number(row: Mapping[str, Any], key: str, place: str, *, least: float = 0, most: float = _MOST) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ResultsInvalid(f"{place}.{key} is no number from {least:g} to {most:g}; evaluate anew")
    return float(value)
