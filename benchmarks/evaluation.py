"""Measures the router on the sample company and on public sets: `make evaluate`, see README.md.

    python -m benchmarks.evaluation [--data FOLDER] [--only company,squad_rag,mixed,clinc150]

Each set goes the way of a user's own data: adapters by `tandem train`, a stack by `tandem up`, `tandem calibrate` on
the calibration part, `tandem evaluate arms` on some of it for what `auto` chooses by, then on the test part, and
`tandem evaluate scope`. A public set that is not there is left out, and told. Everything stays under --work: a second
call goes on where the first was broken off.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import evaluation_page, finetuning, report
from benchmarks import evaluation_sets as sets
from benchmarks.public_sets import SETS, TrainingSet
from benchmarks.runner import ROOT

COMPANY = ROOT / "examples" / "company"
_STOP_S = 60.0
_CHOSEN_BY = "finetuned,rag,dual,cascade,ensemble"
"""Arms measured on the calibration part, for `auto` to choose by."""
_NUM_CHOSEN_BY = "150"
_JUDGED_BY = 60
"""Most test questions that an adapter is judged by before it is registered."""
_RISK = "0.3"
"""Share of wrong answers allowed among those that a cascade accepts.

Passages give the right answer to about half of the sample's questions, so that an adapter which is wrong three times in
ten is worth its answers; at the command's 0.1 nothing can be certified with models of this size.
"""
_START = {
    "up": ("-c", "from tandem.cli import main; main()", "up"),
    "calibrate": ("-m", "evaluation.cli.calibrate"),
    "evaluate": ("-m", "evaluation"),
}
TRAININGS = {
    # It is asked nothing but what it learnt, so that it may forget more of general text than an adapter usually may.
    "stackfaq": replace(SETS["stackfaq"], evaluate=("--by-thread", "--max-forgetting", "20")),
    "squad-reading": TrainingSet(
        sets.squad_training,
        "squad_rag: passages of other articles than those of the test",
        prepare=("--recipe", "raft"),
        run=("--epochs", "2", "--minutes", "15", "--rank", "8"),
    ),
}


@dataclass(frozen=True)
class Measured:
    """Is a set to measure on; `build` takes the folder of public sets, that of trainings, and the folder to lay out."""

    build: Callable[[Path, Path, Path], Path]
    adapters: dict[str, str] = field(default_factory=dict)
    """Training by the adapter's name; none where the sample company brings them."""
    answers: str = "answers"
    """The adapter that answers from its weights."""
    tenant: str = "default"
    principal: str = "dev"
    sample: bool = False


MEASURED = {
    "company": Measured(
        lambda _data, _trained, folder: sets.company(COMPANY, folder),
        tenant=sets.COMPANY_TENANT,
        principal="erin",
        sample=True,
    ),
    "squad_rag": Measured(
        lambda data, _trained, folder: sets.squad_rag(data, folder),
        adapters={"reading": "squad-reading"},
        answers="reading",  # nothing teaches the facts that are asked: the one that reads is asked without passages
    ),
    "mixed": Measured(
        lambda data, trained, folder: sets.mixed(data, trained / "stackfaq" / "dataset", folder),
        adapters={"answers": "stackfaq", "reading": "squad-reading"},
    ),
}
CLINC = "clinc150"


def command(name: str, *arguments: str, home: Path) -> None:
    """Runs a command of `tandem`; its output goes to the terminal. Raises RuntimeError where it fails."""
    print(" ".join(["$ tandem", name, *arguments]), flush=True)
    started = [sys.executable, *_START[name], *arguments]
    status = subprocess.run(started, cwd=ROOT, check=False, env={**os.environ, "TANDEM_HOME": str(home)}).returncode
    if status:
        raise RuntimeError(f"`tandem {name}` ended with status {status}")


@contextmanager
def stack(home: Path, domains: Path, *, sample: bool) -> Iterator[None]:
    """Runs `tandem up` until the block ends; raises RuntimeError where it does not serve."""
    arguments = ["--home", str(home), "--port", "0", "--json", *(["--sample", str(COMPANY)] if sample else [])]
    environment = {**os.environ, "ROUTER_DOMAINS_DIR": str(domains.resolve())}
    print("$ tandem up " + " ".join(arguments), flush=True)
    started = [sys.executable, *_START["up"], *arguments]
    with subprocess.Popen(started, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any('"event": "serving"' in line for line in process.stdout):
                raise RuntimeError(f"the stack does not serve; see {home / 'logs'}")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=_STOP_S)  # the pipe may be full of lines that nobody reads


def trained(name: str, adapters: dict[str, str], work: Path, home: Path, options: argparse.Namespace) -> None:
    """Trains, evaluates and registers what a set needs; what was done before is not done again."""
    for adapter, training in adapters.items():
        folder = work / "training" / training
        judged = argparse.Namespace(data=options.data, seed=options.seed, questions=_JUDGED_BY)
        finetuning.measured(TRAININGS[training], folder, judged)
        if (home / "adapters" / MEASURED[name].tenant / adapter).is_dir():
            continue
        place = ("--registry", str(home / "adapters"), "--tenant", MEASURED[name].tenant, "--name", adapter)
        finetuning.train("register", str(folder / "run"), *place, allowed=(0, finetuning.REJECTED))


def domain_file(path: Path, chosen: Measured, label: str, tables: str = "", **files: Path) -> None:
    """Writes a domain's file with what is there of its calibration and results; a running router reads it anew."""
    lines = [f'description = "measured by make evaluate"\ntenants = ["{chosen.tenant}"]\npolicy = "auto"']
    lines += [f'answer_adapter = "{chosen.answers}"']
    lines += [f'{key} = "{file.name}"' for key, file in files.items() if file.exists()]
    if label:
        lines += ["", "[documents]", f'evaluation = "{label}"']
    if tables:
        lines += ["", tables]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
    scratch.replace(path)


def measure(name: str, work: Path, options: argparse.Namespace) -> None:
    """Measures one set; raises FileNotFoundError where it is not there, RuntimeError where a step fails."""
    chosen, home, folder = MEASURED[name], work / name / "home", work / name / "questions"
    trained(name, chosen.adapters, work, home, options)
    chosen.build(options.data or Path(), work / "training", folder)
    label = "" if chosen.sample else name.replace("_", "-")
    # The sample's own domain, with its profile, prices and abstention, so that its calibration can be put beside it.
    domain, domains = label or chosen.tenant, work / name / "domains"
    own = (COMPANY / "domains" / f"{domain}.toml").read_text(encoding="utf-8") if chosen.sample else ""
    tables = own[own.index("\n[") + 1 :] if own else ""
    artefact, results = domains / f"{domain}.calibration.json", domains / f"{domain}.arms.json"

    def declare() -> None:
        domain_file(domains / f"{domain}.toml", chosen, label, tables, calibration=artefact, results=results)

    def arms(data: Path, out: Path, *more: str) -> None:
        known = ("--domain", domain, "--as", chosen.principal, "--name", label or domain, "--keep")
        command("evaluate", "arms", "--data", str(data), "--out", str(out), *known, *more, home=home)

    declare()
    with stack(home, domains, sample=chosen.sample):
        calibrating = work / name / "calibration"
        if label:  # files the documents, by the way of one question
            arms(folder, work / name / "filing", "--arms", "rag", "--questions", "1")
        asked, scope_data = folder / "calibration.jsonl", folder / "train.jsonl"
        # Where the gate refused what was trained there is nothing to calibrate; the report says that it is absent.
        learnt = chosen.sample or (home / "adapters" / chosen.tenant / chosen.answers / "versions").is_dir()
        if learnt and not artefact.exists():
            given = ("--data", str(asked), "--scope-data", str(scope_data), "--as", chosen.principal)
            where = ("--domain", domain, "--folder", str(calibrating), "--out", str(artefact))
            try:
                command("calibrate", *given, *where, "--risk", _RISK, home=home)
            except RuntimeError:
                print("not calibrated, as said above: by the tokens' own probability it goes on", flush=True)
            declare()
        if learnt and not results.exists():
            # The answers of both pure paths were kept by the calibration.
            part = sets.alone(asked, work / name / "choosing" / "questions.jsonl")
            arms(part, calibrating, "--arms", _CHOSEN_BY, "--questions", _NUM_CHOSEN_BY)
            results.write_bytes((calibrating / "arms.json").read_bytes())
            declare()
        arms(folder, work / name / "report", *(["--questions", str(options.questions)] if options.questions else []))
        if not artefact.exists() or json.loads(artefact.read_text(encoding="utf-8"))["scope"] is None:
            return
        texts = sets.scope_texts(folder, work / name / "scope" / "texts.jsonl")
        where = ("--calibration", str(artefact), "--out", str(texts.parent), "--as", chosen.principal)
        command("evaluate", "scope", "--data", str(texts), *where, home=home)


def measure_clinc(work: Path, options: argparse.Namespace) -> None:
    """Measures scope detection on clinc150; only the embedder is asked."""
    folder = sets.clinc150(options.data or Path(), work / CLINC)
    home = folder / "home"
    with stack(home, folder / "domains", sample=False):
        given = ("--data", str(folder / "texts.jsonl"), "--train", str(folder / "train.jsonl"))
        command("evaluate", "scope", *given, "--out", str(folder / "report"), "--as", "dev", home=home)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the sets one after the other and tells where their reports lie."""
    known = [*MEASURED, CLINC]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the public sets; the sample company needs none")
    parser.add_argument("--only", default="", help="sets, by name: " + ", ".join(known))
    parser.add_argument("--questions", type=int, default=0, help="most test questions of each set; 0 for all")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--work", type=Path, default=Path(".tandem/evaluate"))
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the page of results")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else known
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no such set: {', '.join(unknown)}")
    work, failed = options.work.resolve(), False
    about = report.conditions()
    told, measured = [], list[str]()
    for name in wanted:
        if name != "company" and options.data is None:
            told.append(f"{name} was left out: name the folder of public sets with --data (make evaluate DATA=DIR)")
            continue
        try:
            if name == CLINC:
                measure_clinc(work, options)
            else:
                measure(name, work, options)
            told.append(f"{name}: {work / name / 'report'}")
            measured.append(name)
        except FileNotFoundError as error:
            told.append(f"{name} was left out: {error.filename} is not there")
        except RuntimeError as error:
            told.append(f"{name} failed: {error}; the same command goes on from there")
            failed = True
    if measured:
        folders = {name: work / name for name in measured}
        found = {name: evaluation_page.gathered(folder) for name, folder in folders.items()}
        text = evaluation_page.page(found, [line for line in told if "left out" in line])
        data = {name: evaluation_page.slim(row) for name, row in found.items()}
        plots = evaluation_page.plots(folders)
        told.append(str(report.write("evaluation", about, text, data, plots=plots, folder=options.output)))
    print("\n" + "\n".join(told))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
