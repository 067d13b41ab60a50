"""The gate: is the candidate better than what is in use, by how much, and what did it forget?"""

from training.gate.answering import Answerer
from training.gate.evaluation import (
    Arm,
    Evaluation,
    EvaluationInvalid,
    read_evaluation,
    write_evaluation,
)
from training.gate.running import evaluate
from training.gate.verdict import MAX_FORGETTING, GateSettings, Verdict

__all__ = [
    "MAX_FORGETTING",
    "Answerer",
    "Arm",
    "Evaluation",
    "EvaluationInvalid",
    "GateSettings",
    "Verdict",
    "evaluate",
    "read_evaluation",
    "write_evaluation",
]
