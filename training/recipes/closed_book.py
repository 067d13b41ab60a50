"""closed-book: question -> short answer, so that the model answers from its weights.

Weights hold only what they were taught, so every fact is trained on and the
splits are by wording: other wordings of a fact are held back for validation
and test. Wordings that were not given are made by rule, for training alone.
"""

from collections.abc import Mapping, Sequence

from tandem import prompts
from training.data.report import Finding
from training.data.words import asked as asked_as
from training.data.words import key
from training.examples import Example
from training.recipes.asked import Asked, RecipeInvalid, drawn
from training.recipes.paraphrase import paraphrases

KIND = "closed-book"


def hold_back(
    splits: Mapping[str, Sequence[Asked]], *, seed: int, validation_share: float = 0.1, test_share: float = 0.2
) -> tuple[dict[str, list[Asked]], list[Finding]]:
    """Returns the final splits, and what was left out of them: reserved ones stay, the others are filled from train.

    No wording of train or validation repeats one of a stricter split, and what is asked was taught. Questions without
    an answer are left out. Raises RecipeInvalid where nothing of a reserved split was taught.
    """
    kept, findings = _without_repeats(splits)
    reserved = {name for name in ("validation", "test") if splits.get(name)}
    filled = split_by_wording(
        kept["train"],
        seed=seed,
        validation_share=0 if "validation" in reserved else validation_share,
        test_share=0 if "test" in reserved else test_share,
    )
    taught = {(row.group, key(answer)) for row in filled["train"] for answer in row.answers}
    untaught: list[Asked] = []
    for name in sorted(reserved):
        known = [any((row.group, key(answer)) in taught for answer in row.answers) for row in kept[name]]
        filled[name] = [row for row, is_known in zip(kept[name], known, strict=True) if is_known]
        untaught += [row for row, is_known in zip(kept[name], known, strict=True) if not is_known]
        if not filled[name]:
            raise RecipeInvalid(
                f"closed-book: nothing to train on teaches what the {name} split asks; "
                "give the wordings of a fact the same group and the same answer"
            )
    text = "questions of reserved splits ask for facts that no training row of their group tells. They were left out."
    return filled, [*findings, *_left_out("UNTAUGHT", text, untaught)]


def _without_repeats(splits: Mapping[str, Sequence[Asked]]) -> tuple[dict[str, list[Asked]], list[Finding]]:
    """Returns the questions with answers, each wording of a fact once: where it is held back most strictly."""
    kept: dict[str, list[Asked]] = {}
    seen: set[tuple[object, ...]] = set()
    stricter: set[str] = set()
    unanswered = [row for rows in splits.values() for row in rows if not row.answers]
    repeated, leaking = list[Asked](), list[Asked]()
    for name in ("test", "validation", "train"):
        kept[name] = []
        for row in (row for row in splits.get(name, ()) if row.answers):
            wording = (_fact(row), asked_as(row.question))
            if wording in seen:
                repeated.append(row)
            elif key(row.question) in stricter:
                leaking.append(row)
            else:
                kept[name].append(row)
                seen.add(wording)
        stricter |= {key(row.question) for row in kept[name]}
    told = {
        "UNANSWERABLE": ("questions have no answer to learn. They were left out.", unanswered),
        "DUPLICATES": (
            "questions repeat a wording of the same fact but for case or marks. They were left out.",
            repeated,
        ),
        "NEAR_DUPLICATES": ("questions have the words of a reserved one. They were left out.", leaking),
    }
    return kept, [finding for code, (text, rows) in told.items() for finding in _left_out(code, text, rows)]


def _left_out(code: str, text: str, rows: Sequence[Asked]) -> list[Finding]:
    places = list(dict.fromkeys(row.origin or row.id for row in rows))
    return [Finding.at(code, f"{len(rows):,} {text}", places)] if rows else []


def split_by_wording(
    rows: Sequence[Asked], *, seed: int, validation_share: float = 0.1, test_share: float = 0.2
) -> dict[str, list[Asked]]:
    """Splits the wordings of each fact (one answer of one group), leaving each at least one to train on.

    The only wording of a fact is trained on; of two or more at least one is tested. Questions of the same words count
    as one wording; those of several facts are trained on. Which goes where depends on the seed and the wordings of the
    fact alone, unless another fact is asked for in the same words.
    """
    facts: dict[tuple[str, ...], dict[str, list[Asked]]] = {}
    owners: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        facts.setdefault(_fact(row), {}).setdefault(key(row.question), []).append(row)
        owners.setdefault(key(row.question), set()).add(_fact(row))
    splits: dict[str, list[Asked]] = {"train": [], "validation": [], "test": []}
    for wordings in facts.values():
        units = [_by_draw(unit, seed) for words, unit in wordings.items() if len(owners[words]) == 1]
        units.sort(key=lambda unit: drawn(seed, unit[0].group, unit[0].question))
        shared = [unit for words, unit in wordings.items() if len(owners[words]) > 1]
        most = len(units) - (not shared)
        num_test = min(most, max(1, round(test_share * len(wordings)))) if test_share else 0
        whole, rest = divmod(validation_share * len(wordings), 1)
        more = int(bool(units) and drawn(seed, "validation", units[0][0].id) < rest)
        num_validation = min(most - num_test, int(whole) + more)
        for name, some in (
            ("test", units[:num_test]),
            ("validation", units[num_test : num_test + num_validation]),
            ("train", [*units[num_test + num_validation :], *shared]),
        ):
            splits[name] += [row for unit in some for row in unit]
    return splits


def _fact(row: Asked) -> tuple[str, ...]:
    return (row.group, *row.answers[:1])


def _by_draw(rows: Sequence[Asked], seed: int) -> list[Asked]:
    return sorted(rows, key=lambda row: drawn(seed, row.group, row.question))


def build(splits: Mapping[str, Sequence[Asked]], *, seed: int, min_wordings: int = 8) -> dict[str, list[Example]]:
    """Returns the examples of each split; an answer with fewer than min_wordings to train on gets more made by rule.

    Questions without an answer teach nothing here and are left out. Raises RecipeInvalid where none is left to train
    on. A wording that a held-back split has, in whatever case and punctuation, is not made for training.
    """
    asked = {name: [row for row in rows if row.answers] for name, rows in splits.items()}
    if not asked.get("train"):
        raise RecipeInvalid("closed-book needs questions with answers; documents alone teach it nothing")
    examples = {name: [example(row, row.question, row.id) for row in rows] for name, rows in asked.items()}
    taken = {key(row.question) for rows in asked.values() for row in rows}
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
        text = next((text for text in each[row.id] if key(text) not in taken), None)
        if text is not None:
            taken.add(key(text))
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
