"""The gate: is the candidate better than what is in use, by how much, and what did it forget?"""

from training.gate.answering import Answerer
from training.gate.evaluation import (
    Arm,
    Evaluation,
    EvaluationInvalid,
    read_evaluation,
    write_evaluation,
)
from training.gate.forms import COMPANIONS, companion_lines
from training.gate.running import evaluate
from training.gate.verdict import GateSettings, Verdict

__all__ = [
    "COMPANIONS",
    "Answerer",
    "Arm",
    "Evaluation",
    "EvaluationInvalid",
    "GateSettings",
    "Verdict",
    "companion_lines",
    "evaluate",
    "read_evaluation",
    "write_evaluation",
]
