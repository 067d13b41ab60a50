"""Passages, queries and what they are judged by; no I/O but reading."""

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

import numpy as np

from benchmarks.retrieval_sets import scifact
from benchmarks.runner import ROOT

_OWN = ("docs", "services", "examples/company/documents")
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Rows: TypeAlias = "Sequence[array[float]] | Matrix"
_LONGEST = 1_500  # characters


@dataclass(frozen=True)
class Texts:
    """Is what is embedded; the ids and judgements are empty without a public set."""

    passages: list[str]
    queries: list[str]
    passage_ids: list[str] = field(default_factory=list)
    query_ids: list[str] = field(default_factory=list)
    relevant: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read(data: Path | None) -> Texts:
    """Returns SciFact where its folder is given, else pages and questions of this repository."""
    if data is None:
        return _own()
    corpus, queries, qrels = scifact(data)
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for query, passage, grade in qrels:
        relevant[query][passage] = grade
    passages = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in corpus}
    asked = {row["_id"]: row["text"] for row in queries if row["_id"] in relevant}
    return Texts(list(passages.values()), list(asked.values()), list(passages), list(asked), relevant)


def _own() -> Texts:
    files = [file for name in _OWN for file in sorted((ROOT / name).rglob("*.md"))]
    passages: list[str] = []
    for file in files:
        text = ""
        for paragraph in file.read_text(encoding="utf-8").split("\n\n"):
            text = f"{text}\n\n{paragraph}".strip()
            if len(text) > _LONGEST // 2:
                passages.append(text[:_LONGEST])
                text = ""
    lines = (ROOT / "examples/company/questions/test.jsonl").read_text(encoding="utf-8").splitlines()
    return Texts(passages, [json.loads(line)["question"] for line in lines])


def draw(texts: Sequence[str], number: int, *, seed: int) -> list[str]:
    """Returns so many different texts, or all where there are fewer."""
    different = list(dict.fromkeys(texts))
    return Random(seed).sample(different, min(number, len(different)))  # noqa: S311


def matrix(rows: Rows) -> Matrix:
    """Returns vectors of unit length as rows."""
    found: Matrix = np.array(rows, dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def cosines(rows: Sequence["array[float]"], reference: Sequence["array[float]"]) -> tuple[float, float]:
    """Returns the mean and the least cosine of vectors to those of the same texts."""
    found = (matrix(rows) * matrix(reference)).sum(1)
    return float(found.mean()), float(found.min())


def ndcg_at_10(texts: Texts, passages: Rows, queries: Rows) -> float:
    """Returns the mean nDCG@10 of an exact search, by the gains of trec_eval."""
    scores = matrix(queries) @ matrix(passages).T
    total = 0.0
    for query, row in zip(texts.query_ids, scores, strict=True):
        grades = texts.relevant[query]
        best = [texts.passage_ids[place] for place in np.argsort(-row, kind="stable")[:10]]
        ideal = sorted(grades.values(), reverse=True)[:10]
        total += _gain([grades.get(passage, 0) for passage in best]) / _gain(ideal)
    return total / len(texts.query_ids)


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))
