"""Trains adapters on public question sets and the sample company, and tells what each arm is worth.

    python -m benchmarks.finetuning --data FOLDER [--only stackfaq,halden-answers]

Each set goes through `tandem train prepare`, `run` and `evaluate` like a user's own data; nothing is registered. A set
that is not there is left out, and the page says so. The work stays under --work, and a second call goes on with it:
what was trained and evaluated there is not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments, report
from benchmarks.public_sets import SETS, TrainingSet
from benchmarks.runner import ROOT

REJECTED = 3  # exit status of `tandem train evaluate` where the gate says no
COMPANY = {
    "halden-answers": TrainingSet(
        None,
        "the sample company: other wordings of facts that were trained on",
        prepare=("--recipe", "closed-book", "--tenant", "halden"),
        run=("--epochs", "10"),
    ),
    "halden-reading": TrainingSet(
        None,
        "the sample company: passages, facts that were not trained on",
        prepare=("--recipe", "raft", "--tenant", "halden"),
        run=("--epochs", "2", "--rank", "8"),
    ),
    "brightwater-answers": TrainingSet(
        None,
        "the sample company's other tenant: other wordings of facts that were trained on",
        prepare=("--recipe", "closed-book", "--tenant", "brightwater"),
        run=("--epochs", "14", "--rank", "8"),
        evaluate=("--min-questions", "15"),
    ),
    "house-style": TrainingSet(
        None,
        "the sample company: letters, summaries and reports in its style, of briefs that were not trained on",
        prepare=("--recipe", "style"),
        run=("--epochs", "6"),
        evaluate=("--min-questions", "15"),
    ),
}


def train(*arguments: str, allowed: Sequence[int] = (0,)) -> None:
    """Runs `tandem train`; its progress goes to the terminal. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "training", *arguments]
    print("$ tandem train " + " ".join(arguments), flush=True)
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status not in allowed:
        raise RuntimeError(f"`tandem train {arguments[0]}` ended with status {status}")


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> Path:
    """Writes rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(chosen: TrainingSet, data: Path, work: Path, seed: int) -> None:
    """Makes the dataset of a set in work/dataset."""
    source, extra = ROOT / "examples" / "company", list[str]()
    if chosen.rows is not None:
        source = write_rows(chosen.rows(data), work / "rows.jsonl")
    if chosen.documents is not None:
        extra += ["--documents", str(write_rows(chosen.documents(data), work / "documents.jsonl"))]
    out = ("--out", str(work / "dataset"), "--seed", str(seed), "--replace")
    train("prepare", str(source), *chosen.prepare, *extra, *out)


def measured(chosen: TrainingSet, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates one set; returns its evaluation and how it was trained."""
    run, seed = work / "run", ("--seed", str(options.seed))
    _check_same(chosen, work, options)
    if not _finished(run):
        environments.bundled_model()
        prepare(chosen, options.data, work, options.seed)
        resume = ("--resume",) if (run / "run.json").exists() else ()
        train("run", str(work / "dataset"), "--out", str(run), *chosen.run, *seed, "--tracking", "off", *resume)
    if not (run / "evaluation.json").exists():
        most = ("--max-questions", str(options.questions))
        train("evaluate", str(run), *most, *seed, "--no-incumbent", *chosen.evaluate, allowed=(0, REJECTED))
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    del record["base"]["path"]  # says something about this machine alone; its hash names the model
    return {"about": chosen.about, "evaluation": found, "run": record}


def _check_same(chosen: TrainingSet, work: Path, options: argparse.Namespace) -> None:
    """Notes how a set is measured; raises RuntimeError where its folder holds what was measured otherwise."""
    wanted = [options.seed, options.questions, list(chosen.prepare), list(chosen.run), list(chosen.evaluate)]
    noted = work / "measured.json"
    if not noted.exists():
        work.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    elif json.loads(noted.read_text(encoding="utf-8")) != wanted:
        raise RuntimeError(f"{work} was made with other settings; remove it, or name another folder with --work")


def _finished(run: Path) -> bool:
    path = run / "run.json"
    return path.exists() and "result" in json.loads(path.read_text(encoding="utf-8"))


def page(found: dict[str, dict[str, Any]], absent: dict[str, str], options: argparse.Namespace) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Fine-tuning: base and fine-tuned, without and with passages",
        "",
        f"LoRA on the bundled model, seed {options.seed}. Means on the test split in percent with 95 % bootstrap "
        "intervals over groups; the base model has its best prompt, chosen on the validation split. Gains are the "
        "candidate's, paired by question.",
    ]
    for name, result in found.items():
        lines += ["", f"## {name}", "", result["about"][:1].upper() + result["about"][1:] + ".", ""]
        lines += _table(result["evaluation"])
        lines += ["", _budget(result["run"], result["evaluation"])]
    lines += ["", *(f"- {name} was left out: {reason}" for name, reason in absent.items())]
    return "\n".join(lines) + "\n"


def _table(evaluation: dict[str, Any]) -> list[str]:
    metrics = sorted({metric for arm in evaluation["arms"].values() for metric in arm["metrics"]})
    metrics.sort(key=lambda metric: metric != evaluation["metric"])
    rows = [f"| arm | {' | '.join(metrics)} | gain of the candidate |", "|---" * (len(metrics) + 2) + "|"]
    for name, arm in evaluation["arms"].items():
        gain = evaluation["gains"].get(name)
        cells = [_interval(arm["metrics"][metric]) if metric in arm["metrics"] else "" for metric in metrics]
        rows.append(f"| {name} | {' | '.join(cells)} | {_interval(gain) if gain else ''} |")
    return rows


def _interval(found: dict[str, float]) -> str:
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _budget(run: dict[str, Any], evaluation: dict[str, Any]) -> str:
    verdict = "accepted" if evaluation["verdict"]["accepted"] else "rejected"
    reasons = "; ".join(evaluation["verdict"].get("reasons", ()))
    counted = f"{evaluation['num_questions']} questions in {evaluation['num_groups']} groups."
    ratio = evaluation["forgetting"]
    forgetting = (
        f"Perplexity on general text {'no number' if ratio is None else f'{ratio:.3f}'} times the base model's."
    )
    return f"{counted} Trained: {_trained(run)}. {forgetting} The gate: {verdict}{f' ({reasons})' if reasons else ''}."


def _trained(run: dict[str, Any]) -> str:
    done = run["result"]
    speed = done["tokens"] / max(1e-9, 60 * done["minutes"])
    energy = f"{done['energy']['kwh']:.4f} kWh {done['energy']['source']}"
    steps = f"{done['steps']} of {done['num_steps']} steps"
    return f"{steps}, {done['tokens']:,} tokens, {done['minutes']:.1f} minutes ({speed:.0f} tokens/s), {energy}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the sets one after the other and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the public sets; the sample company's need none")
    parser.add_argument("--only", default="", help="sets, by name: " + ", ".join([*SETS, *COMPANY]))
    parser.add_argument("--questions", type=int, default=300, help="most test questions of each set; 0 for all")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--work", type=Path, default=Path(".tandem/finetuning"))
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    known = SETS | COMPANY
    wanted = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no such set: {', '.join(unknown)}")
    if options.data is None and (public := [name for name in wanted if name in SETS]):
        parser.error(f"--data is needed for {', '.join(public)}")
    about = report.conditions()
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    failed = False
    for name in wanted:
        try:
            found[name] = measured(known[name], options.work.resolve() / name, options)
        except FileNotFoundError as error:
            absent[name] = f"{error.filename} is not there"
            print(f"{name} is left out: {absent[name]}", flush=True)
        except RuntimeError as error:
            absent[name], failed = str(error), True
            print(f"{name} failed: {error}", flush=True)
    text = page(found, absent, options)
    print("\n" + text)
    if found:
        print(report.write("finetuning", about, text, {"sets": found, "absent": absent}, folder=options.output))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
