"""From files to a dataset folder: import and checks, splits, recipe, report."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training import company as companies
from training.data import Finding, Options, Report, prepare, read_documents
from training.data.report import SplitCount, few_groups
from training.examples import Dataset, Example, check_place, write_dataset
from training.recipes import (
    RECIPES,
    Asked,
    Document,
    RecipeInvalid,
    classification,
    closed_book,
    companions,
    importing,
    raft,
    style,
)
from training.recipes.raft import Settings as RaftSettings

REPORT_TEXT, REPORT_JSON = "report.txt", "report.json"
_MAX_SHOTS = 60
"""Training questions that are kept in the other form as well, for the base model's prompts."""
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Says what dataset is to be made."""

    recipe: str
    kind: str = ""
    """Kind of the rows; empty for the recipe's usual one."""
    documents: tuple[Path, ...] = ()
    """Files and folders that passages are cut from."""
    tenant: str = ""
    """Whose share of a company folder."""
    seed: int = 17
    options: Options = field(default_factory=lambda: Options(test_share=0.2))
    """Of rows that files bring; a company folder brings its own splits and takes none."""
    min_wordings: int = 8
    """Wordings of each fact to train closed-book answers on; those that are missing are made by rule."""
    raft: RaftSettings = field(default_factory=RaftSettings)

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise RecipeInvalid(f"{self.recipe} is no recipe; there are {', '.join(RECIPES)}")
        if self.kind and self.kind not in importing.KINDS[self.recipe]:
            known = " or ".join(importing.KINDS[self.recipe])
            raise RecipeInvalid(f"{self.recipe} takes rows of the kind {known}, not {self.kind}")


@dataclass(frozen=True)
class _Examples:
    splits: dict[str, list[Example]]
    companions: dict[str, list[Example]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Made:
    splits: dict[str, list[Example]]
    companions: dict[str, list[Example]]
    inputs: dict[str, str]
    report_text: str
    report_json: str


def prepare_dataset(
    sources: Sequence[Path],
    out: Path,
    wish: Wish,
    *,
    replace_existing: bool = False,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Dataset:
    """Writes the dataset folder and returns it; its report lies in it. Nothing is written where something is wrong.

    Raises DataRejected for bad rows, RecipeInvalid where a recipe cannot work with them, CompanyInvalid for a broken
    company folder and DatasetInvalid where the folder cannot be written.
    """
    check_place(out, replace=replace_existing)
    if len(sources) == 1 and companies.is_company(sources[0]):
        made = _from_company(sources[0], wish)
    else:
        made = _from_files(sources, wish, on_progress)
    attachments = {REPORT_TEXT: made.report_text.encode(), REPORT_JSON: made.report_json.encode()}
    if made.companions:
        attachments[companions.FILE] = companions.to_bytes(made.companions)
    return write_dataset(
        out,
        made.splits,
        recipe=wish.recipe,
        seed=wish.seed,
        inputs=made.inputs,
        config=_config(wish),
        attachments=attachments,
        replace=replace_existing,
    )


def _config(wish: Wish) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": wish.kind, "tenant": wish.tenant}
    found["options"] = {key: value for key, value in asdict(wish.options).items() if key != "limits"}
    if wish.recipe == "closed-book":
        found["min_wordings"] = wish.min_wordings
    if wish.recipe in ("raft", "closed-book"):
        found["raft"] = asdict(wish.raft)
    as_read: dict[str, Any] = json.loads(json.dumps(found))
    return as_read


def _from_files(sources: Sequence[Path], wish: Wish, on_progress: OnProgress) -> _Made:
    kind = wish.kind or importing.KINDS[wish.recipe][0]
    options = wish.options
    if wish.recipe == "closed-book":
        # Split by wording, further down: a fact that was never trained on cannot be known.
        options = replace(options, validation_share=0, test_share=0, split="within_group", near_duplicates="report")
    prepared = prepare(sources, kind=kind, seed=wish.seed, options=options, on_progress=on_progress)
    inputs = dict(prepared.inputs)
    documents: list[Document] = []
    findings: list[Finding] = []
    if wish.recipe in ("raft", "closed-book"):
        documents = importing.contexts([row for rows in prepared.splits.values() for row in rows])
        if wish.documents:
            found, told = read_documents(wish.documents, options, on_progress=on_progress)
            findings += [replace(one, places=tuple(f"documents/{place}" for place in one.places)) for one in told]
            documents += importing.documents(found.rows)
            inputs |= {f"documents/{name}": digest for name, digest in found.inputs.items()}
    report = prepared.report
    if wish.recipe == "style":
        written = {name: list(importing.written(rows)) for name, rows in prepared.splits.items()}
        made = _Examples(style.build(written))
    elif wish.recipe == "classification":
        labelled = {name: list(importing.labelled(rows)) for name, rows in prepared.splits.items()}
        made = _Examples(classification.build(labelled))
    else:
        asked = {name: list(importing.asked(rows)) for name, rows in prepared.splits.items()}
        if wish.recipe == "closed-book":
            asked, left_out = _held_back(asked, wish)
            findings += left_out
            report = _by_wording(report, asked, wish)
        made = _questions(asked, documents, wish)
    report = replace(report, findings=(*report.findings, *findings, *made.findings))
    text, row = _told(report, made.splits)
    return _Made(made.splits, made.companions, inputs, text, row)


def _held_back(asked: Mapping[str, Sequence[Asked]], wish: Wish) -> tuple[dict[str, list[Asked]], list[Finding]]:
    return closed_book.hold_back(
        asked, seed=wish.seed, validation_share=wish.options.validation_share, test_share=wish.options.test_share
    )


def _by_wording(report: Report, asked: Mapping[str, Sequence[Asked]], wish: Wish) -> Report:
    """Returns the report with the splits that closed-book made of the rows, wording by wording."""
    splits = {name: SplitCount(rows=len(rows), groups=len({row.group for row in rows})) for name, rows in asked.items()}
    before = few_groups(report.splits)
    findings = [finding for finding in report.findings if finding not in before]
    shares = {"validation_share": wish.options.validation_share, "test_share": wish.options.test_share}
    return replace(
        report,
        splits={name: splits[name] for name in report.splits},
        options={**report.options, **shares},
        findings=(*findings, *few_groups(splits)),
    )


def _questions(asked: Mapping[str, Sequence[Asked]], documents: Sequence[Document], wish: Wish) -> _Examples:
    """Returns the examples, and the same questions in the other form for the arms of the evaluation."""
    if wish.recipe == "raft":
        splits = raft.build(asked, documents, seed=wish.seed, settings=wish.raft)
    else:
        splits = closed_book.build(asked, seed=wish.seed, min_wordings=wish.min_wordings)
    used = {name: {example.id for example in rows} for name, rows in splits.items()}
    both = {name: [row for row in rows if row.id in used[name]] for name, rows in asked.items()}
    both["train"] = both["train"][:_MAX_SHOTS]
    others = raft.companions(wish.recipe, both, documents, seed=wish.seed, settings=wish.raft)
    return _Examples(splits, others, raft.not_found(asked, used) if wish.recipe == "raft" else ())


def _told(report: Report, splits: Mapping[str, Sequence[Example]]) -> tuple[str, str]:
    row = json.loads(report.to_json())
    row["examples"] = {name: len(found) for name, found in splits.items()}
    return f"{report.to_text()}\n{_counts(splits)}", json.dumps(row, ensure_ascii=False, indent=1) + "\n"


def _from_company(folder: Path, wish: Wish) -> _Made:
    if wish.recipe == "classification":
        raise RecipeInvalid("a company folder holds no labelled texts; bring a file of text and label")
    _refuse_options(wish)
    if wish.recipe == "style":
        written, inputs = companies.read_style(folder, seed=wish.seed)
        made = _Examples(style.build(written))
    else:
        if not wish.tenant:
            raise RecipeInvalid("whose facts? name the tenant with --tenant; tenants contradict each other on purpose")
        company = companies.read_company(folder, wish.tenant)
        inputs = company.hashes
        asked = company.closed_book() if wish.recipe == "closed-book" else company.raft()
        made = _questions(asked, company.documents(), wish)
    splits = made.splits
    text = f"{wish.recipe} from the company folder {folder.name}, splits as given there\n\n"
    text += "".join(f"{finding.to_text()}\n" for finding in made.findings) + _counts(splits)
    row: dict[str, Any] = {
        "kind": "company",
        "examples": {name: len(found) for name, found in splits.items()},
        "inputs": inputs,
    }
    if made.findings:
        row["findings"] = [asdict(finding) for finding in made.findings]
    return _Made(splits, made.companions, inputs, text, json.dumps(row, ensure_ascii=False, indent=1) + "\n")


def _refuse_options(wish: Wish) -> None:
    """Raises RecipeInvalid where something is asked for that a company folder does not take."""
    if wish.documents:
        raise RecipeInvalid("a company folder brings its own documents; leave --documents out")
    usual = Wish(recipe=wish.recipe)
    given = asdict(wish.options)
    others = [name for name, value in asdict(usual.options).items() if name != "limits" and given[name] != value]
    names = ["--kind"] * bool(wish.kind) + [
        f"--{name.replace('_', '-')}".replace("columns", "column") for name in others
    ]
    if names:
        raise RecipeInvalid(
            f"a company folder brings its own splits and no rows to check; leave {', '.join(names)} out"
        )


def _counts(splits: Mapping[str, Sequence[Example]]) -> str:
    lines = ["Examples        number  groups"]
    for name, rows in splits.items():
        lines.append(f"  {name:<12}{len(rows):>8,}{len({row.group for row in rows}):>8,}")
    return "\n".join(lines) + "\n"
