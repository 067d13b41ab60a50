"""Trains LoRA adapters, prefixes and whole models from a dataset folder into a run folder."""

from training.methods.plan import METHODS, Method, MethodError
from training.methods.record import Run, read_run
from training.methods.serving import load_trained
from training.methods.training import train
from training.methods.watch import Journal, Progress
from training.methods.work import Outcome

__all__ = [
    "METHODS",
    "Journal",
    "Method",
    "MethodError",
    "Outcome",
    "Progress",
    "Run",
    "load_trained",
    "read_run",
    "train",
]
