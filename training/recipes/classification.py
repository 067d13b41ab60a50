"""classification: a text -> one label of a fixed list."""

from collections.abc import Mapping, Sequence

from tandem import prompts
from training.examples import Example
from training.recipes.asked import Labelled, RecipeInvalid

MAX_LABELS = 500
KIND = "classification"


def build(splits: Mapping[str, Sequence[Labelled]]) -> dict[str, list[Example]]:
    """Returns the examples of each split; the labels are those to train on.

    Raises RecipeInvalid where there are not at least two labels, or where a held-back row has a label that nothing
    to train on has.
    """
    labels = sorted({row.label for row in splits.get("train", ())})
    if not 2 <= len(labels) <= MAX_LABELS:
        raise RecipeInvalid(f"classification needs 2 to {MAX_LABELS} labels to train on, not {len(labels)}")
    known = frozenset(labels)
    for name, rows in splits.items():
        if strange := [row for row in rows if row.label not in known]:
            lines = ", ".join(row.origin or row.id for row in strange[:20])
            raise RecipeInvalid(
                f"{len(strange):,} rows of the {name} split have a label that no training row has ({lines}); "
                "bring more rows of it, or leave them out"
            )
    return {name: [_example(row, labels) for row in rows] for name, rows in splits.items()}


def _example(row: Labelled, labels: Sequence[str]) -> Example:
    return Example(
        id=row.id,
        group=row.group,
        messages=tuple(prompts.classifying(row.text, labels)),
        answer=row.label,
        golds=(row.label,),
        kind=KIND,
    )
