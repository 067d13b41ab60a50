"""Asks the same questions in both forms, without passages and with them, where the dataset has both.

A recipe's own examples have one form; the other comes from the attachment
`companions.jsonl`, whose examples have the ids of those they accompany.
"""

from collections.abc import Sequence

from training.examples import Dataset, Example
from training.gate.verdict import GateSettings
from training.recipes import companions
from training.recipes.asked import drawn

PASSAGES = " + passages"
"""What the name of an arm ends with that is shown passages."""


def forms_of(dataset: Dataset, settings: GateSettings) -> dict[str, dict[str, list[Example]]]:
    """Returns the examples by form and split; where there are both forms they ask the same test questions.

    The form "" is without passages, the form PASSAGES with them.
    """
    own = {name: list(dataset.split(name)) for name in ("train", "validation", "test")}
    if dataset.recipe == "raft":
        own["train"] = [example for example in own["train"] if "~" not in example.id]
    others = companions.read(dataset)
    shared = {example.id for example in others.get("test", ())}
    if shared:
        own["test"] = [example for example in own["test"] if example.id in shared]
    own["test"] = sample(own["test"], settings.max_questions, settings.seed)
    forms = {"": own} if dataset.recipe != "raft" else {PASSAGES: own}
    if shared and own["test"]:
        by_id = {example.id: example for example in others["test"]}
        others["test"] = [by_id[example.id] for example in own["test"]]
        forms["" if dataset.recipe == "raft" else PASSAGES] = others
    return dict(sorted(forms.items()))


def own_suffix(recipe: str) -> str:
    """Returns the form that a recipe trains on."""
    return PASSAGES if recipe == "raft" else ""


def sample(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Returns `count` of the examples, chosen by the seed and each example alone, in their order."""
    if not count or len(examples) <= count:
        return list(examples)
    kept = {e.id for e in sorted(examples, key=lambda e: drawn(seed, "sample", e.id))[:count]}
    return [example for example in examples if example.id in kept]
