"""The public sets of groundedness, split by group before anything is looked at.

halueval dialogue (arXiv 2305.11747): 10,000 dialogues with a right and a hallucinated answer. Dialogues that share
their knowledge or their first turn are one group; a group is in the half for fitting or in the half for testing by its
hash. begin (arXiv 2105.00071): the dev part for fitting, of the test part what shares no knowledge with it.
"""

import csv
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DIALOGUE, BEGIN = "dialogue", "begin"
FILES = {
    DIALOGUE: ("halueval/dataset_halueval_dialogue.jsonl",),
    BEGIN: ("begin/begin_dev_wow.tsv", "begin/begin_test_wow.tsv"),
}
SEED = 17


@dataclass(frozen=True, kw_only=True)
class Row:
    """Is one labelled answer."""

    name: str
    source: str
    fits: bool
    """Whether it is for fitting; else it is for the test."""
    group: str
    context: str
    question: str
    answer: str
    supported: bool


def sha256(folder: Path) -> dict[str, str]:
    """Returns the hash of each file that is read."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for names in FILES.values() for name in names
    }


def read(folder: Path) -> list[Row]:
    """Returns the rows of both sets."""
    return [*_dialogue(folder / FILES[DIALOGUE][0]), *_begin(*(folder / name for name in FILES[BEGIN]))]


def sample(rows: list[Row], *, source: str, fits: bool, most: int) -> list[Row]:
    """Returns the answers of so many contexts of a part, drawn by the seed: in dialogue two answers each."""
    units: dict[str, list[Row]] = {}
    for row in rows:
        if row.source == source and row.fits is fits:
            units.setdefault(row.name.rpartition("-")[0] if source == DIALOGUE else row.name, []).append(row)
    order = sorted(units, key=lambda unit: int(unit.rpartition("-")[2]))
    random.Random(SEED).shuffle(order)  # noqa: S311
    return [row for unit in order[:most] for row in units[unit]]


def _dialogue(path: Path) -> Iterator[Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    root: dict[str, str] = {}

    def find(key: str) -> str:
        root.setdefault(key, key)
        while root[key] != key:
            root[key] = root[root[key]]
            key = root[key]
        return key

    keys = []
    for number, row in enumerate(rows):
        first = row["dialogue_history"].split("[Assistant]")[0].strip().lower()
        keys.append(f"row {number}")
        for shared in (f"knowledge {row['knowledge'].strip().lower()}", f"first {first}"):
            root[find(keys[-1])] = find(shared)
    least: dict[str, int] = {}
    for number, key in enumerate(keys):
        least.setdefault(find(key), number)
    for number, (row, key) in enumerate(zip(rows, keys, strict=True)):
        group = f"{DIALOGUE}-{least[find(key)]}"
        fits = int(hashlib.sha256(f"0:{group}".encode()).hexdigest(), 16) % 2 == 0
        for label, field in ((1, "right_response"), (0, "hallucinated_response")):
            yield Row(
                name=f"{DIALOGUE}-{number}-{label}",
                source=DIALOGUE,
                fits=fits,
                group=group,
                context=row["knowledge"],
                question=row["dialogue_history"].strip(),
                answer=row[field],
                supported=bool(label),
            )


def _begin(dev: Path, test: Path) -> Iterator[Row]:
    seen: set[str] = set()
    for path, fits, part in ((dev, True, "train"), (test, False, "test")):
        with path.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)):
                group = row["knowledge"].strip().lower()
                if fits:
                    seen.add(group)
                elif group in seen:
                    continue
                yield Row(
                    name=f"{BEGIN}-{part}-{number}",
                    source=BEGIN,
                    fits=fits,
                    group=group,
                    context=row["knowledge"],
                    question=row["message"],
                    answer=row["response"],
                    supported=row["begin_label"] == "Fully attributable",
                )
