"""Measures scope detection: how well the distance to an adapter's training questions tells what lies outside.

    python -m benchmarks.scope --clinc150 FOLDER --company examples/company --vectors FILE.npz [--test]

Sets: clinc150 (Larson et al. 2019) with its 15,000 training questions as what an adapter learnt, and a tenant of a
company folder with the questions its answer adapter learnt. Without --test the validation parts are measured, by which
the method is chosen; --test opens the test parts. The threshold is always fitted on the validation part.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scope_vectors import Matrix, Vectors
from evaluation.calibration.scope import Space, fit_scope, knn, mahalanobis, outside_auroc
from tandem.scoring import mean_interval

_SHA = "0" * 64


@dataclass(frozen=True)
class Asked:
    """Are questions with their groups."""

    texts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, text: str, group: str) -> None:
        """Appends one."""
        self.texts.append(text)
        self.groups.append(group)


@dataclass(frozen=True)
class Labelled:
    """Is one set: what was learnt, other questions inside by split, and what lies outside by split and kind."""

    name: str
    learnt: Asked
    inside: Mapping[str, Asked]
    outside: Mapping[str, Mapping[str, Asked]]


def clinc150(folder: Path) -> Labelled:
    """Reads data_full.json; groups are intents in training, single questions elsewhere."""
    held = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    return Labelled(
        "clinc150",
        _asked((text, intent) for text, intent in held["train"]),
        {split: _asked((text, text) for text, _ in held[split]) for split in ("val", "test")},
        {
            split: {"out of scope": _asked((text, text) for text, _ in held[f"oos_{split}"])}
            for split in ("val", "test")
        },
    )


def company(folder: Path, tenant: str) -> Labelled:
    """Reads a tenant's questions: inside are other wordings of the facts that its answer adapter learnt."""
    rows = {
        name: _lines(folder / f"questions/{name}.jsonl") for name in ("paraphrases", "train", "calibration", "test")
    }
    own = {name: [row for row in found if row["tenant"] == tenant] for name, found in rows.items()}
    facts = {row["fact_id"] for row in own["paraphrases"]}
    learnt = own["paraphrases"] + [row for row in own["train"] if _is_static(row, facts)]
    inside, outside = {}, {}
    for split, file in (("val", "calibration"), ("test", "test")):
        alone = [row for row in own[file] if not row["history"]]
        inside[split] = _rows(row for row in alone if _is_static(row, facts))
        outside[split] = {
            "out of scope": _rows(row for row in alone if row["label"] == "out_of_scope"),
            "volatile": _rows(row for row in alone if row["label"] == "volatile"),
            "not permitted": _rows(row for row in alone if row["label"] == "not_permitted"),
        }
    return Labelled(f"company, {tenant}", _rows(learnt), inside, outside)


def spaces(learnt: Matrix, groups: Sequence[str]) -> dict[str, Space]:
    """Returns the ways to measure distances."""
    found = {f"k-NN, k = {k}": knn(learnt, neighbours=k) for k in (1, 3, 5, 10)}
    return {
        **found,
        "Mahalanobis, one mean": mahalanobis(learnt),
        "Mahalanobis, a mean per group": mahalanobis(learnt, groups),
    }


def measure(labelled: Labelled, vectors: Vectors, *, split: str) -> list[dict[str, Any]]:
    """Returns for each way and kind of outside: AUROC, share accepted inside, share rejected outside."""
    learnt, fitting = vectors.of(labelled.learnt.texts), vectors.of(labelled.inside["val"].texts)
    inside = labelled.inside[split]
    within = vectors.of(inside.texts)
    found = []
    for name, space in spaces(learnt, labelled.learnt.groups).items():
        threshold = fit_scope(space, fitting, embedder_sha256=_SHA).threshold
        near = space.distances(within)
        kept = (near <= threshold).astype(float).tolist()
        for kind, asked in labelled.outside[split].items():
            if not asked.texts:
                continue
            far = space.distances(vectors.of(asked.texts))
            found.append(
                {
                    "set": labelled.name,
                    "split": split,
                    "way": name,
                    "outside": kind,
                    "num_inside": len(within),
                    "num_outside": len(far),
                    "auroc": outside_auroc(near.tolist(), far.tolist(), inside_groups=inside.groups),
                    "inside accepted": mean_interval(kept, groups=inside.groups),
                    "outside rejected": mean_interval((far > threshold).astype(float).tolist()),
                }
            )
    return found


def tell(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the figures as a table in Markdown, with 95 % intervals."""
    lines = ["| set | outside | way | AUROC | inside accepted | outside rejected |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['set']}, {row['split']} | {row['outside']}, {row['num_outside']} of {row['num_inside']} "
        f"| {row['way']} | {row['auroc']} | {row['inside accepted']} | {row['outside rejected']} |"
        for row in sorted(rows, key=lambda row: (row["set"], row["outside"]))
    ]
    return "\n".join(lines)


def _is_static(row: Mapping[str, Any], facts: set[str]) -> bool:
    return row["label"] == "static" and row["fact_id"] in facts


def _asked(pairs: Any) -> Asked:
    found = Asked()
    for text, group in pairs:
        found.add(text, group)
    return found


def _rows(rows: Any) -> Asked:
    return _asked((row["question"], row["fact_id"] or row["question_id"]) for row in rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    """Measures what is named and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinc150", type=Path, help="folder with data_full.json")
    parser.add_argument("--company", type=Path, help="company folder, as examples/company")
    parser.add_argument("--tenant", default="halden")
    parser.add_argument("--vectors", type=Path, required=True, help="file that keeps the embeddings")
    parser.add_argument("--test", action="store_true", help="measure the test parts")
    wanted = parser.parse_args()
    sets = [clinc150(wanted.clinc150)] if wanted.clinc150 else []
    sets += [company(wanted.company, wanted.tenant)] if wanted.company else []
    vectors = Vectors(wanted.vectors)
    np.seterr(all="raise", under="ignore")
    rows = [row for one in sets for row in measure(one, vectors, split="test" if wanted.test else "val")]
    print(tell(rows))


if __name__ == "__main__":
    main()
