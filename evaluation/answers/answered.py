"""Answers as plain data, one JSON object a line, so that a measurement that was broken off goes on where it was."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evaluation.answers.questions import Question
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1 import router_service_pb2 as router


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Is what one arm answered to one question, and what it took; None where a figure is not known."""

    arm: str
    question_id: str
    asked: str
    """Question.asked."""
    text: str = ""
    abstained: bool = False
    seconds: float = 0.0
    """The whole call, as its caller waited."""
    alone: bool = False
    """Whether nothing else was asked meanwhile: latencies are told of such answers."""
    route: str = ""
    num_calls: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cost: float | None = None
    currency: str = ""
    groundedness: float | None = None
    confidence: float | None = None
    calibration: str = ""
    rewritten: str = ""
    signals: dict[str, float] = field(default_factory=dict)
    passages: list[dict[str, Any]] = field(default_factory=list)
    """document_id, title, text and, where known, dense_score; in the order of the prompt."""
    lineage: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    error: str = ""
    """The code of the refusal; such an answer is wrong, and asked for again the next time."""

    @property
    def tokens(self) -> float:
        """Is the number of tokens read and written."""
        return self.input_tokens + self.output_tokens

    @property
    def scores(self) -> list[float]:
        """Is the passages' cosines to the question, the greatest first."""
        return sorted((p["dense_score"] for p in self.passages if p.get("dense_score") is not None), reverse=True)


def of_answer(answer: router.Answer) -> dict[str, Any]:
    """Returns what an answer of the router says, as fields of Answered."""
    cost, grounded = answer.cost, answer.groundedness
    return {
        "text": answer.text,
        "abstained": answer.abstained,
        "route": router.Route.Name(answer.decision.route).removeprefix("ROUTE_").lower(),
        "num_calls": float(cost.num_calls),
        "input_tokens": float(answer.usage.input_tokens),
        "output_tokens": float(answer.usage.output_tokens),
        "cost": cost.amount if cost.HasField("amount") else None,
        "currency": cost.currency,
        "groundedness": grounded.value if answer.HasField("groundedness") and grounded.HasField("value") else None,
        "confidence": answer.confidence.value if answer.HasField("confidence") else None,
        "calibration": answer.confidence.calibration,
        "rewritten": answer.decision.rewritten_question,
        "signals": {name.name: float(value) for name, value in answer.signals.ListFields()},
        "passages": [_passage(passage) for passage in answer.passages],
        "lineage": {name.name: value for name, value in answer.lineage.ListFields()},
        "steps": [
            f"{router.DecisionStep.Kind.Name(step.kind).removeprefix('KIND_').lower()}: {step.reason}"
            for step in answer.decision.steps
        ],
        "degraded": [one.component for one in answer.degraded],
        "stages_ms": {timing.stage: timing.duration.ToMicroseconds() / 1000 for timing in answer.timings},
    }


def of_text(response: generator.GenerateResponse, *, abstained: bool) -> dict[str, Any]:
    """Returns what a generation says, as fields of Answered."""
    usage = response.finished.usage
    return {
        "text": response.text,
        "abstained": abstained,
        "num_calls": 1.0,
        "input_tokens": float(usage.input_tokens),
        "output_tokens": float(usage.output_tokens),
        "lineage": {name.name: value for name, value in response.finished.lineage.ListFields()},
    }


def _passage(passage: Any) -> dict[str, Any]:
    found = {"document_id": passage.document_id, "title": passage.title, "text": passage.text}
    return {**found, "dense_score": passage.dense_score} if passage.HasField("dense_score") else found


class Kept:
    """Holds answers in a file, one a line; the last of an arm to a question counts. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[tuple[str, str], Answered] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        for line in text.split("\n"):
            row = _row(line)
            if row is not None:
                self._rows[row.arm, row.question_id] = row
        self._file = self._path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):  # the last run was ended while it wrote
            self._file.write("\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def has(self, arm: str, question: Question) -> bool:
        """Tells whether there is an answer to exactly this question that is no refusal."""
        row = self._rows.get((arm, question.question_id))
        return row is not None and row.asked == question.asked and not row.error

    def of(self, arm: str, question: Question) -> Answered:
        """Returns the answer to a question, a refusal too; raises KeyError where it was not asked."""
        row = self._rows[arm, question.question_id]
        if row.asked != question.asked:
            raise KeyError((arm, question.question_id))
        return row

    def add(self, row: Answered) -> None:
        """Keeps an answer; it is with the operating system when this returns."""
        self._rows[row.arm, row.question_id] = row
        self._file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        self._file.flush()

    def forget(self, arms: Collection[str]) -> None:
        """Forgets what these arms answered."""
        self._rows = {key: row for key, row in self._rows.items() if row.arm not in arms}


_FIELDS = {one.name for one in fields(Answered)}


def _row(line: str) -> Answered | None:
    """Returns an answer; None for half a line, or one of another version of this file."""
    try:
        found = json.loads(line)
        return Answered(**found) if isinstance(found, dict) and found.keys() <= _FIELDS else None
    except (ValueError, TypeError):
        return None
