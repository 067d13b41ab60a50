"""style: a brief -> the text in the house style, so that letters, summaries and reports speak with one voice."""

from collections.abc import Mapping, Sequence

from tandem import prompts
from training.examples import Example
from training.recipes.asked import RecipeInvalid, Written


def build(splits: Mapping[str, Sequence[Written]]) -> dict[str, list[Example]]:
    """Returns the examples of each split; raises RecipeInvalid where there is none to train on."""
    if not splits.get("train"):
        raise RecipeInvalid("style needs rows of prompt and text; none is left to train on")
    return {name: [_example(row) for row in rows] for name, rows in splits.items()}


def _example(row: Written) -> Example:
    return Example(
        id=row.id,
        group=row.group,
        messages=tuple(prompts.writing(row.prompt, row.kind)),
        answer=row.text,
        golds=(row.text,),
        kind=row.kind,
    )
