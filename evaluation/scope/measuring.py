"""From labelled texts to figures: how far texts inside and outside lie, and what the threshold makes of it.

One JSON object a line: `text` (or `question`), `label` ("in" or "out"), and optionally `group`: texts of one group are
drawn together.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.answers.questions import lines
from evaluation.calibration.calibrating import separation
from evaluation.calibration.scope import Space, fit_scope, knn
from tandem.errors import InvalidInput
from tandem.scoring import Interval, mean_interval

LABELS = ("in", "out")


@dataclass(frozen=True)
class Text:
    """Is a labelled text."""

    text: str
    inside: bool
    group: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Is what was found; scores are AUROCs, the first of distance, the other of a text's length."""

    name: str
    about: dict[str, Any]
    num_inside: int
    num_outside: int
    threshold: float
    auroc: Interval
    auroc_of_length: Interval
    inside_accepted: Interval
    outside_rejected: Interval
    inside: list[float] = field(repr=False)
    """Distances."""
    outside: list[float] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return asdict(self)


def read(path: Path) -> list[Text]:
    """Returns the texts of a file; raises InvalidInput with file and line for what cannot be used."""
    found = []
    for line, row in lines(path):
        text, label, group = row.get("text", row.get("question")), row.get("label"), row.get("group", f"line {line}")
        if not isinstance(text, str) or not text.strip() or label not in LABELS or not isinstance(group, str):
            raise InvalidInput(f'{path}, line {line}: a string `text` and a label "in" or "out" are needed')
        found.append(Text(text, label == "in", group))
    if {one.inside for one in found} != {True, False}:
        raise InvalidInput(f"{path} needs texts of both labels, in and out")
    return found


def halves(texts: Sequence[Text], *, seed: int) -> tuple[list[Text], list[Text]]:
    """Returns texts inside that set the threshold, and the others, which measure; a group is in one of them."""
    groups = sorted({one.group for one in texts if one.inside})
    drawn = {groups[place] for place in np.random.default_rng(seed).permutation(len(groups))[: len(groups) // 2]}
    return (
        [one for one in texts if one.inside and one.group in drawn],
        [one for one in texts if not one.inside or one.group not in drawn],
    )


def fitted(learnt: Any, inside: Any, *, embedder_sha256: str, seed: int = 0) -> tuple[Space, float]:
    """Returns the space of what was learnt, (N, D), and the distance that 95 % of texts like `inside`, (M, D), keep."""
    space = knn(learnt, neighbours=min(3, len(learnt)))
    return space, fit_scope(space, inside, embedder_sha256=embedder_sha256, seed=seed).threshold


def measure(
    texts: Sequence[Text], vectors: Any, space: Space, threshold: float, *, name: str, about: dict[str, Any], seed: int
) -> Report:
    """Returns the figures of texts and their vectors, (N, D); larger distances should be those of texts outside."""
    distances = space.distances(vectors).tolist()
    outside, groups = [not one.inside for one in texts], [one.group for one in texts]
    by_distance = separation(distances, outside, groups, seed=seed)
    by_length = separation([float(len(one.text)) for one in texts], outside, groups, seed=seed)
    if by_distance is None or by_length is None:
        raise InvalidInput("texts of both labels, in and out, are needed to measure")
    within = [(value, group) for value, group, out in zip(distances, groups, outside, strict=True) if not out]
    beyond = [(value, group) for value, group, out in zip(distances, groups, outside, strict=True) if out]
    return Report(
        name=name,
        about={**about, "seed": seed},
        num_inside=len(within),
        num_outside=len(beyond),
        threshold=threshold,
        auroc=by_distance,
        auroc_of_length=by_length,
        inside_accepted=_share([value <= threshold for value, _ in within], [group for _, group in within], seed),
        outside_rejected=_share([value > threshold for value, _ in beyond], [group for _, group in beyond], seed),
        inside=[value for value, _ in within],
        outside=[value for value, _ in beyond],
    )


def _share(flags: Sequence[bool], groups: Sequence[str], seed: int) -> Interval:
    return mean_interval([float(flag) for flag in flags], groups=groups, seed=seed)
