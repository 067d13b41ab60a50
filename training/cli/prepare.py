"""`tandem train prepare`: files to a dataset folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli.options import AsJson, Documents, Recipe, Seed, Tenant, pairs
from training.cli.output import Bars, console, print_json, telling

if TYPE_CHECKING:
    from training.preparing import Wish

Data = Annotated[
    list[Path], typer.Argument(help="Files (.jsonl, .csv, .tsv), folders of them, or a folder like examples/company.")
]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(prepare)


def prepare(
    data: Data,
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="Folder of the dataset; it must be new.")],
    kind: Annotated[
        str, typer.Option(help="Kind of the rows: question_answer, instruction, classification or style.")
    ] = "",
    documents: Documents = None,
    tenant: Tenant = "",
    seed: Seed = 17,
    validation_share: Annotated[float, typer.Option(help="Share for early stopping and the choice of prompts.")] = 0.1,
    test_share: Annotated[float, typer.Option(help="Share for the final comparison alone.")] = 0.2,
    wordings: Annotated[
        int, typer.Option(help="closed-book: wordings of each fact; missing ones are made by rule.", min=1)
    ] = 8,
    variants: Annotated[int, typer.Option(help="raft: cases of each question to train on.", min=1)] = 3,
    absent_share: Annotated[
        float, typer.Option(help="raft: share of questions shown without the passage that answers them.")
    ] = 0.15,
    max_passages: Annotated[int, typer.Option(help="raft: most passages of a case.", min=2)] = 5,
    near_duplicates: Annotated[
        str, typer.Option(help="Rows that nearly repeat each other: join (into one split), refuse or report.")
    ] = "join",
    contradictions: Annotated[
        str, typer.Option(help="Rows that answer the same question differently: keep, drop or refuse.")
    ] = "keep",
    personal_data: Annotated[
        str, typer.Option(help="Rows in which personal data were found: report, drop or refuse.")
    ] = "report",
    column: Annotated[
        list[str] | None, typer.Option(help="Where names differ: question=query, our field and yours. Again for each.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the dataset that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check your examples, split them without leaks, and write a dataset folder with a report on the data.

    A row that cannot be used is named with its line and reason, and then nothing is written.

    Fields by kind: question_answer {question, answer or answers; paraphrases, context, document_id, unanswerable},
    instruction {instruction, output; input}, classification {text, label}, style {prompt, text}; every kind may have
    id, group (what must stay in one split), category and split.
    """
    with telling(as_json=as_json):
        chosen = wish(
            recipe=recipe,
            kind=kind,
            documents=documents,
            tenant=tenant,
            seed=seed,
            raft={"num_variants": variants, "absent_share": absent_share, "max_passages": max_passages},
            min_wordings=wordings,
            validation_share=validation_share,
            test_share=test_share,
            near_duplicates=near_duplicates,
            contradictions=contradictions,
            personal_data=personal_data,
            columns=pairs(column, option="--column"),
        )
        do(data, out, chosen, replace=replace, as_json=as_json)


def wish(
    *,
    recipe: str,
    kind: str = "",
    documents: list[Path] | None = None,
    tenant: str = "",
    seed: int,
    raft: dict[str, Any] | None = None,
    min_wordings: int = 8,
    **options: Any,
) -> "Wish":
    """Returns what is to be prepared; raises ConfigError or RecipeInvalid for a value out of range."""
    from tandem.errors import ConfigError
    from training.data import Options
    from training.preparing import Wish
    from training.recipes.raft import Settings

    choices = {
        "near_duplicates": ("join", "refuse", "report"),
        "contradictions": ("keep", "drop", "refuse"),
        "personal_data": ("report", "drop", "refuse"),
    }
    for name, known in choices.items():
        if options.get(name, known[0]) not in known:
            raise ConfigError(f"--{name.replace('_', '-')} {options[name]} is not one of: {', '.join(known)}")
    try:
        checked = Options(**options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Wish(
        recipe=recipe,
        kind=kind,
        documents=tuple(documents or ()),
        tenant=tenant,
        seed=seed,
        options=checked,
        min_wordings=min_wordings,
        raft=Settings(**(raft or {})),
    )


def do(data: list[Path], out: Path, chosen: "Wish", *, replace: bool, as_json: bool) -> None:
    """Prepares, and tells what came out."""
    from training.preparing import REPORT_TEXT, prepare_dataset

    with Bars() as bars:
        made = prepare_dataset(data, out, chosen, replace_existing=replace, on_progress=bars.update)
    if as_json:
        print_json({"dataset": str(out), "sha256": made.sha256, "recipe": made.recipe, "examples": made.counts})
        return
    console.print(made.attachment(REPORT_TEXT).decode(), markup=False, soft_wrap=True)
    counts = ", ".join(f"{count:,} {name}" for name, count in made.counts.items())
    console.print(f"{out}: {counts} examples, sha256 {made.sha256[:12]}…", markup=False, soft_wrap=True)
    if not made.test:
        console.print(
            "There is no test split: a candidate trained on this cannot be evaluated.", markup=False, soft_wrap=True
        )
