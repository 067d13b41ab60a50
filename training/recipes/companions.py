"""Keeps the same questions in the other form beside a dataset: with passages for closed-book, without for raft.

They are for the arms of the evaluation; nothing is ever trained on them. Each
has the id of the example that it accompanies.
"""

import json
from collections.abc import Mapping, Sequence

from training.examples import Dataset, DatasetInvalid, Example

FILE = "companions.jsonl"


def to_bytes(splits: Mapping[str, Sequence[Example]]) -> bytes:
    """Returns the attachment of a dataset."""
    rows = [{"split": name, "example": example.row()} for name, found in splits.items() for example in found]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(dataset: Dataset) -> dict[str, list[Example]]:
    """Returns the companions by split, none where the dataset has none; raises DatasetInvalid for a damaged file."""
    found: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    if FILE not in dataset.files:
        return found
    for number, line in enumerate(dataset.attachment(FILE).splitlines(), 1):
        try:
            row = json.loads(line)
            found[row["split"]].append(Example.from_row(row["example"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetInvalid(f"{dataset.folder / FILE}, line {number}: {error}") from None
    return found
