"""Holds what was found in the data, as text for people and as JSON for programs; never a value, only places."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 20
_FEW = 5
"""Groups of a held-out split below which a comparison says little."""


@dataclass(frozen=True)
class Finding:
    """Is one thing that was found, with the places where."""

    code: str
    """Stable name: DUPLICATES, NEAR_DUPLICATES, CONTRADICTIONS, LENGTHS, LANGUAGES, PERSONAL_DATA, SPLITS,
    FIELDS, FILES, NOT_FOUND, UNTAUGHT, UNANSWERABLE."""
    text: str
    """One sentence: what was found, how often, and what was done about it."""
    places: tuple[str, ...] = ()
    """The first places, "file:line"."""
    num_places: int = 0

    @classmethod
    def at(cls, code: str, text: str, places: Sequence[str]) -> "Finding":
        """Returns a finding that names the first of the places and counts the others."""
        return cls(code, text, tuple(places[:SHOWN]), len(places))

    def to_text(self) -> str:
        """Returns the finding as it is read in a terminal."""
        more = self.num_places - len(self.places)
        shown = ", ".join(self.places) + (f" and {more:,} more" if more else "")
        return f"{self.code}  {self.text}\n" + (f"  {shown}\n" if self.places else "")


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """Is the size of one split."""

    rows: int
    groups: int


def few_groups(splits: Mapping[str, SplitCount]) -> list[Finding]:
    """Returns a finding for each held-out split that has so few groups that a comparison says little."""
    return [
        Finding(
            "SPLITS",
            f"The {name} split holds only {count.groups} groups; intervals will be wide. Give it a larger share.",
        )
        for name, count in splits.items()
        if name != "train" and 0 < count.groups < _FEW
    ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Is all that preparation says about the data."""

    kind: str
    seed: int
    inputs: Mapping[str, str]
    """SHA-256 of each file."""
    rows_read: int
    rows_kept: int
    splits: Mapping[str, SplitCount]
    lengths: Mapping[str, Mapping[str, int]]
    """Words by field: min, median, p95, max."""
    languages: Mapping[str, int]
    """Rows by language, the most frequent first; texts too short to tell are counted as "?"."""
    labels: Mapping[str, int]
    """Rows by label, of classification only."""
    personal_data: Mapping[str, int]
    """Finds by kind."""
    options: Mapping[str, Any]
    findings: tuple[Finding, ...] = field(default=())

    def to_json(self) -> str:
        """Returns the report as JSON, the same for the same data."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    def to_text(self) -> str:
        """Returns the report as it is read in a terminal."""
        lines = [f"{self.kind}: {self.rows_read:,} rows read, {self.rows_kept:,} kept (seed {self.seed})", ""]
        lines += [f"  {name:<12}{count.rows:>9,} rows {count.groups:>9,} groups" for name, count in self.splits.items()]
        lines += ["", "Words            min  median     p95     max"]
        for name, row in self.lengths.items():
            lines.append(f"  {name:<12}" + "".join(f"{row[key]:>8,}" for key in ("min", "median", "p95", "max")))
        lines += _counted("Languages", self.languages) + _counted("Labels", self.labels)
        lines += _counted("Personal data", self.personal_data)
        if not self.findings:
            lines += ["", "Nothing doubtful was found."]
        for finding in self.findings:
            lines += ["", finding.to_text().rstrip("\n")]
        lines += ["", "Files"] + [f"  {sha256[:12]}  {name}" for name, sha256 in self.inputs.items()]
        return "\n".join(lines) + "\n"


def _counted(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN])
    more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ["", f"{title}: {shown}{more}"]
