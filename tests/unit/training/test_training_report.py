"""The report: complete, the same for the same run, and strangers' text stays text."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tandem.report.plots import bars
from tandem.scoring import Interval
from training.gate import Arm, Evaluation, GateSettings, Verdict, write_evaluation
from training.methods import Run
from training.report import plots, write_report

HOSTILE = "<script>alert('x')</script> & more"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    record: dict[str, Any] = {
        "status": "running",
        "created": "2026-11-22T10:00:00+00:00",
        "code_version": "0.1.0",
        "method": {"name": "lora", "rank": 4, "seed": 1},
        "base": {"name": "tiny", "sha256": "a" * 64, "path": "/nowhere"},
        "dataset": {
            "recipe": "raft",
            "sha256": "b" * 64,
            "seed": 1,
            "counts": {"train": 3},
            "inputs": {f"{HOSTILE}.jsonl": "c" * 64},
        },
        "versions": {"torch": "2"},
        "hardware": {"cpus": 2},
        "device": "cpu",
        "threads": 1,
    }
    rows = [{"step": n, "loss": 3 / n, **({"validation_loss": 2 / n} if n % 2 else {})} for n in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(tmp_path, record)


def evaluation() -> Evaluation:
    def arm(value: float, text: str) -> Arm:
        interval = Interval(value, value - 0.1, value + 0.1)
        by_kind = {"answerable": {"f1": value, "count": 1}, "unanswerable": {"f1": value, "count": 0}}
        return Arm(prompt="as trained", metrics={"f1": interval}, by_kind=by_kind, values={}, answers=[text])

    return Evaluation(
        recipe="raft",
        metric="f1",
        candidate="fine-tuned",
        num_questions=1,
        num_groups=1,
        arms={"base": arm(0.2, HOSTILE), "fine-tuned": arm(0.7, "30 days")},
        gains={"base": Interval(0.5, 0.3, 0.6)},
        perplexity={"base": 20.0, "fine-tuned": 21.0},
        forgetting=1.05,
        notes=(HOSTILE,),
        settings=GateSettings(),
        verdict=Verdict(accepted=True, reasons=("f1 +0.500 over base",)),
        minutes=1,
        questions=(("q1", (HOSTILE,)),),
    )


def test_the_page_holds_verdict_arms_losses_and_lineage_and_no_foreign_markup(run: Run) -> None:
    write_evaluation(run.folder, evaluation())
    text = write_report(run, evaluation()).read_text()
    assert "Accepted" in text
    assert "+0.500 [+0.300, +0.600]" in text
    assert "b" * 64 in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4
    assert text.count("<svg") == 2
    assert not any(mark in text for mark in ("src=", '"https:', "@import"))


def test_the_same_run_gives_the_same_page(run: Run) -> None:
    first = write_report(run, evaluation()).read_bytes()
    assert write_report(run, evaluation()).read_bytes() == first
    assert b"Arms" not in write_report(run, None).read_bytes()


def test_plots_are_well_formed_without_any_figures_too() -> None:
    for svg in (plots.loss_curve([]), bars({"a": Interval(0.5, -1, 1)}, label="f1", strong={"a"})):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
