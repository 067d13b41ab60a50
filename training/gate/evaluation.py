"""Holds what the gate found out about a candidate, and keeps it in the run's folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tandem.scoring import Interval
from training.gate.verdict import GateSettings, Verdict

SCHEMA = 1
FILE = "evaluation.json"
ANSWERS = "answers.jsonl"


class EvaluationInvalid(ValueError):
    """Says why there is nothing to evaluate, or no evaluation to read, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Is one way of answering the questions, measured."""

    prompt: str
    """How it was asked."""
    metrics: dict[str, Interval]
    by_kind: dict[str, dict[str, float]]
    """Means by the examples' kind, with their number as "count"."""
    values: dict[str, list[float]] = field(repr=False)
    answers: list[str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Is all that the gate found out about one candidate."""

    recipe: str
    metric: str
    """The primary metric, which gains and verdict are about."""
    candidate: str
    """The candidate's arm that the verdict is about."""
    num_questions: int
    num_groups: int
    arms: dict[str, Arm]
    gains: dict[str, Interval]
    """By how much the candidate is above each other arm, paired by question, drawn over groups."""
    perplexity: dict[str, float | None]
    """On general text, by model; None where it is no number."""
    forgetting: float | None
    """The candidate's perplexity over the base model's."""
    notes: tuple[str, ...]
    settings: GateSettings
    verdict: Verdict
    minutes: float
    questions: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), repr=False)
    """Id and right answers of each question; only in memory, as the single answers are."""
    about: dict[str, Any] = field(default_factory=dict)
    """Hashes of weights, base model and dataset, and whatever else the caller knows."""

    def to_json(self) -> dict[str, Any]:
        """Returns the evaluation without the single answers."""
        row = asdict(replace(self, arms={}, questions=()))
        del row["questions"]
        row["arms"] = {
            name: {
                "prompt": arm.prompt,
                "metrics": {n: asdict(i) for n, i in arm.metrics.items()},
                "by_kind": arm.by_kind,
            }
            for name, arm in self.arms.items()
        }
        return {"schema": SCHEMA, **row}


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes evaluation.json, and answers.jsonl with every arm's answer to every question, each in one step."""
    rows = []
    for place, (name, golds) in enumerate(evaluation.questions):
        said = {arm: found.answers[place] for arm, found in evaluation.arms.items()}
        rows.append(json.dumps({"id": name, "golds": list(golds), "answers": said}, ensure_ascii=False) + "\n")
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    for path, content in ((folder / ANSWERS, "".join(rows)), (folder / FILE, text)):
        scratch = path.with_name(f".{path.name}.partial")
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(path)


def read_evaluation(folder: Path) -> Evaluation:
    """Reads evaluation.json; raises EvaluationInvalid where there is none or it cannot be understood."""
    path = folder / FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise EvaluationInvalid(f"{folder} was not evaluated yet; `tandem train evaluate {folder}` does it") from None
    except ValueError as error:
        raise EvaluationInvalid(f"{path} is not valid JSON; evaluate the run again") from error
    try:
        if row.pop("schema") != SCHEMA:
            raise EvaluationInvalid(f"{path} was written by another version; evaluate the run again")
        row["arms"] = {name: _arm(arm) for name, arm in row["arms"].items()}
        row["gains"] = {name: Interval(**gain) for name, gain in row["gains"].items()}
        row["settings"] = GateSettings(**row["settings"])
        row["verdict"] = Verdict(accepted=row["verdict"]["accepted"], reasons=tuple(row["verdict"]["reasons"]))
        return Evaluation(**{**row, "notes": tuple(row["notes"]), "questions": ()})
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationInvalid(f"{path} was written by another version; evaluate the run again") from error


def _arm(row: Mapping[str, Any]) -> Arm:
    metrics = {name: Interval(**interval) for name, interval in row["metrics"].items()}
    return Arm(prompt=row["prompt"], metrics=metrics, by_kind=row["by_kind"], values={}, answers=[])
