"""Validates and imports users' data: files to rows, findings and leak-free splits.

prepared = prepare([Path("faq.jsonl")], kind="question_answer", seed=0)
prepared.splits["train"], prepared.report.to_text()
"""

from training.data.importing import Imported, import_rows
from training.data.limits import Limits, Options
from training.data.prepare import Prepared, prepare, read_documents
from training.data.reading import DataRejected, Problem
from training.data.report import Finding, Report
from training.data.rows import KINDS, Document, Instruction, Labelled, QuestionAnswer, Row, Style

__all__ = [
    "KINDS",
    "DataRejected",
    "Document",
    "Finding",
    "Imported",
    "Instruction",
    "Labelled",
    "Limits",
    "Options",
    "Prepared",
    "Problem",
    "QuestionAnswer",
    "Report",
    "Row",
    "Style",
    "import_rows",
    "prepare",
    "read_documents",
]
