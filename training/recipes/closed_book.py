"""closed-book: question -> short answer, so that the model answers from its weights.

Weights hold only what they were taught, so every fact is trained on and the
splits are by wording: other wordings of a fact are held back for validation
and test. Wordings that were not given are made by rule, for training alone.
"""

from collections.abc import Mapping, Sequence

from tandem import prompts
from training.examples import Example
from training.recipes.asked import Asked, RecipeInvalid, drawn
from training.recipes.paraphrase import paraphrases

KIND = "closed-book"


def split_by_wording(
    rows: Sequence[Asked], *, seed: int, validation_share: float = 0.1, test_share: float = 0.2
) -> dict[str, list[Asked]]:
    """Splits the wordings of each fact (one answer of one group), leaving each at least one to train on.

    The only wording of a fact is trained on; of two or more at least one is tested. Which goes where depends on the
    seed and the wordings of the fact alone.
    """
    facts: dict[tuple[str, ...], list[Asked]] = {}
    for row in rows:
        facts.setdefault((row.group, *row.answers[:1]), []).append(row)
    splits: dict[str, list[Asked]] = {"train": [], "validation": [], "test": []}
    for wordings in facts.values():
        wordings = sorted(wordings, key=lambda row: drawn(seed, row.group, row.question))
        num_test = max(1, round(test_share * len(wordings))) if len(wordings) > 1 and test_share else 0
        spare = len(wordings) - num_test - 1
        wanted = validation_share * len(wordings)
        whole, rest = divmod(wanted, 1)
        num_validation = min(max(spare, 0), int(whole) + (drawn(seed, "validation", wordings[0].id) < rest))
        splits["test"] += wordings[:num_test]
        splits["validation"] += wordings[num_test : num_test + num_validation]
        splits["train"] += wordings[num_test + num_validation :]
    return splits


def build(splits: Mapping[str, Sequence[Asked]], *, seed: int, min_wordings: int = 8) -> dict[str, list[Example]]:
    """Returns the examples of each split; an answer with fewer than min_wordings to train on gets more made by rule.

    Questions without an answer teach nothing here and are left out. Raises RecipeInvalid where none is left to train
    on. A wording that a held-back split has, in whatever case and spacing, is not made for training.
    """
    asked = {name: [row for row in rows if row.answers] for name, rows in splits.items()}
    if not asked.get("train"):
        raise RecipeInvalid("closed-book needs questions with answers; documents alone teach it nothing")
    examples = {name: [example(row, row.question, row.id) for row in rows] for name, rows in asked.items()}
    taken = {_key(row.question) for rows in asked.values() for row in rows}
    facts: dict[tuple[str, str], list[Asked]] = {}
    for row in asked["train"]:
        facts.setdefault((row.group, row.answers[0]), []).append(row)
    for rows in facts.values():
        examples["train"] += _made(rows, min_wordings - len(rows), taken, seed=seed)
    return examples


def _made(rows: Sequence[Asked], wanted: int, taken: set[str], *, seed: int) -> list[Example]:
    """Returns up to `wanted` examples in other words, taken from the rows in turn."""
    made: list[Example] = []
    each = {row.id: iter(paraphrases(row.question, seed=seed)) for row in rows} if wanted > 0 else {}
    for number in range(wanted):
        row = rows[number % len(rows)]
        text = next((text for text in each[row.id] if _key(text) not in taken), None)
        if text is not None:
            taken.add(_key(text))
            made.append(example(row, text, f"{row.id}~{number + 1}"))
    return made


def example(row: Asked, question: str, name: str) -> Example:
    """Returns the example of one wording."""
    return Example(
        id=name,
        group=row.group,
        messages=tuple(prompts.closed_book(question)),
        answer=row.answers[0] if row.answers else prompts.ABSTENTION,
        golds=row.answers or (prompts.ABSTENTION,),
        kind=KIND,
    )


def _key(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip("?. ")
