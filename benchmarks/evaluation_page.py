"""What `make evaluate` found, of all sets, as one page of results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_ARMS = "| arm | accuracy | EM | F1 | abstained | grounded | p50 / p95 ms | calls | tokens | static / volatile |"


def gathered(folder: Path) -> Row:
    """Returns what lies in a set's folder: arms, calibration, scope; what was not measured is missing."""
    files = {
        "arms": folder / "report" / "arms.json",
        "calibration": folder / "calibration" / "calibration.json",
        "scope": folder / ("report" if not (folder / "scope").is_dir() else "scope") / "scope.json",
    }
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.exists()}


def slim(found: Row) -> Row:
    """Returns it without what is long and can be measured anew: distances, curves, the scope's vectors."""
    kept: Row = json.loads(json.dumps(found))
    for place, names in {"scope": ("inside", "outside"), "calibration": ("scope",)}.items():
        for name in names:
            kept.get(place, {}).pop(name, None)
    for part in kept.values():
        for name in ("folder", "data", "train", "calibration", "scope"):
            part.get("about", {}).pop(name, None)
    return kept


def plots(folders: dict[str, Path]) -> dict[str, str]:
    """Returns the curve of cost and quality of each set, by name."""
    files = {name: folder / "report" / "cost-quality.svg" for name, folder in folders.items()}
    return {f"cost-quality-{name}": path.read_text(encoding="utf-8") for name, path in files.items() if path.exists()}


def page(found: dict[str, Row], told: Sequence[str]) -> str:
    """Returns the page as Markdown; `told` are lines about what was left out."""
    lines = [
        "# The router's policies beside both pure paths and simple routers",
        "",
        "SmolLM2-135M-Instruct with LoRA adapters through the running services. Adapters, calibration and what `auto` "
        "chooses by come from other questions than those told here. Intervals are 95 % bootstraps over groups of "
        "questions; definitions are in evaluation/README.md.",
    ]
    for name, row in found.items():
        lines += ["", f"## {name}", ""]
        if "arms" in row:
            lines += _arms(name, row["arms"])
        if "calibration" in row:
            lines += _calibration(row["calibration"])
        if "scope" in row:
            lines += _scope(row["scope"])
    return "\n".join([*lines, "", *(f"- {line}" for line in told)]) + "\n"


def _arms(name: str, row: Row) -> list[str]:
    about = row["about"]
    without, timed = about["without an answer"], about["questions asked one at a time"]
    lines = [
        f"{row['num_questions']} questions in {about['groups']} groups, {without} without an answer; right is "
        f"{row['metric']}. Times are of {timed} questions asked one at a time, where an arm was asked so.",
        "",
        f"![cost-quality-{name}]",
        "",
        _ARMS,
        "|" + "---|" * (_ARMS.count("|") - 1),
    ]
    for arm in row["arms"]:
        metrics = arm["metrics"]
        grounded = f"{metrics['groundedness']['value']:.3f}" if "groundedness" in metrics else ""
        waits = f"{arm['p50_ms']:.0f} / {arm['p95_ms']:.0f}" if arm["num_timed"] else ""
        kinds = " / ".join(
            f"{arm['kinds'][kind]['value']:.2f}" for kind in ("static", "volatile") if kind in arm["kinds"]
        )
        lines.append(
            f"| {arm['policy']} | {_interval(metrics['accuracy'])} | {metrics['em']['value']:.3f} | "
            f"{metrics['f1']['value']:.3f} | {metrics['abstained']['value']:.3f} | {grounded} | {waits} | "
            f"{arm['calls']:.1f} | {arm['tokens']:.0f} | {kinds} |"
        )
    lines += [f"| {arm} | not measured: {reason} |" for arm, reason in row["absent"].items()]
    return [*lines, "", *(f"- {line}" for line in [*row["findings"], *row["notes"]])]


def _calibration(row: Row) -> list[str]:
    measured = row["measured"]
    certified = "none" if row["threshold"] is None else f"{row['threshold']:.3f}"
    return [
        "",
        f"Calibration on {measured['num_questions']} other questions: threshold {certified} for at most "
        f"{row['risk']:.0%} wrong among the accepted at {row['level']:.0%} confidence; accepted "
        f"{_interval(measured['accepted'])}, AUROC {_interval(measured['auroc'])}, ECE {measured['ece_before']:.3f} "
        f"before and {measured['ece_after']:.3f} after.",
    ]


def _scope(row: Row) -> list[str]:
    return [
        "",
        f"Scope on {row['num_inside']} texts inside and {row['num_outside']} outside: AUROC {_interval(row['auroc'])} "
        f"(length {_interval(row['auroc_of_length'])}); accepted inside {_interval(row['inside_accepted'])}, rejected "
        f"outside {_interval(row['outside_rejected'])}.",
    ]


def _interval(row: Row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
