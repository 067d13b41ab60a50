"""Writes report.html into a run's folder: verdict, arms, losses, lineage, data."""

import json
from pathlib import Path
from typing import Any

from tandem.report import write_page
from tandem.report.plots import bars
from training.examples import Dataset
from training.gate.evaluation import ANSWERS, Evaluation
from training.methods.record import Run
from training.methods.watch import Journal
from training.preparing import REPORT_TEXT
from training.report import plots

FILE = "report.html"
_NUM_ANSWERS = 8
_MAX_CHARACTERS = 400


def write_report(run: Run, evaluation: Evaluation | None, dataset: Dataset | None = None) -> Path:
    """Writes the page in one step and returns its path; what is not known yet is left out of it."""
    record = run.record
    rows = Journal.read(run.journal) if run.journal.is_file() else []
    report = dataset.attachment(REPORT_TEXT) if dataset is not None and REPORT_TEXT in dataset.files else b""
    metrics = (
        list(dict.fromkeys(name for arm in evaluation.arms.values() for name in arm.metrics)) if evaluation else []
    )
    kinds = sorted({kind for arm in evaluation.arms.values() for kind in arm.by_kind}) if evaluation else []
    drawn = ""
    if evaluation:
        intervals = {name: arm.metrics[evaluation.metric] for name, arm in evaluation.arms.items()}
        drawn = bars(intervals, label=evaluation.metric, strong={evaluation.candidate})
    return write_page(
        run.folder / FILE,
        package="training.report",
        template="report.html.jinja",
        title=f"{record['dataset']['recipe']} by {record['method']['name']}: {run.folder.name}",
        subtitle=f"trained {record['created']} on {record['base']['name']}",
        evaluation=evaluation,
        metrics=metrics,
        kinds=kinds,
        arms_plot=drawn,
        loss_plot=plots.loss_curve(rows),
        answers=_some_answers(run.folder) if evaluation else [],
        training=_training(run),
        lineage=_lineage(run, evaluation),
        data_report=report.decode("utf-8", "replace"),
    )


def _some_answers(folder: Path) -> list[dict[str, Any]]:
    path = folder / ANSWERS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines[:: max(1, len(lines) // _NUM_ANSWERS)][:_NUM_ANSWERS]]
    for row in rows:
        row["golds"] = [_cut(text) for text in row["golds"][:5]]
        row["answers"] = {name: _cut(text) for name, text in row["answers"].items()}
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def _training(run: Run) -> dict[str, Any]:
    record = run.record
    found: dict[str, Any] = {"examples": _listed(record["dataset"]["counts"])}
    if run.finished:
        result = run.result
        found |= {
            "steps": f"{result['steps']} of {result['num_steps']} ({result['epochs']} epochs), {result['stopped']}; "
            f"kept: step {result['kept_step']}",
            "tokens": f"{result['tokens']:,}",
            "minutes": result["minutes"],
            "energy": f"{result['energy']['kwh']:.4f} kWh ({result['energy']['source']})",
            "trained weights": f"{result['num_weights']:,}",
            "loss": _rounded(result["loss"]),
            "validation loss": f"{_rounded(result['validation_loss_before'])} before, "
            f"{_rounded(result['validation_loss'])} after",
            "validation answers word for word": _rounded(result["validation_exact"]),
        }
    return found | {"settings": _listed({k: v for k, v in record["method"].items() if k != "name"})}


def _lineage(run: Run, evaluation: Evaluation | None) -> dict[str, Any]:
    record = run.record
    found = {
        "weights": run.result["weights_sha256"] if run.finished else "(not finished)",
        "base model": f"{record['base']['name']} {record['base']['sha256']}",
        "dataset": record["dataset"]["sha256"],
        "seed": f"{record['method']['seed']} (training), {record['dataset']['seed']} (dataset)",
        "code": record["code_version"],
        "libraries": _listed(record["versions"]),
        "machine": f"{_listed(record['hardware'])}; {record['device']}, {record['threads']} threads",
    }
    if evaluation:
        found["compared with"] = evaluation.about.get("incumbent") or "the base model alone"
    return found | {f"input {name}": digest for name, digest in record["dataset"]["inputs"].items()}


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
