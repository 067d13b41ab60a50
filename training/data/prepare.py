"""Prepares users' data: imports, looks for what is doubtful, removes copies, and splits without leaks."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.data import quality
from training.data.importing import Imported, import_rows
from training.data.limits import Options
from training.data.near_duplicates import Union, near_duplicates
from training.data.personal import personal_rows
from training.data.reading import DataRejected, Problem
from training.data.report import SHOWN, Finding, Report, SplitCount, few_groups
from training.data.rows import Row
from training.data.splitting import (
    Unit,
    counts_by_split,
    deal,
    held_out,
    keep_in_training,
    missed_shares,
    strictest,
)
from training.examples import SPLITS

OnProgress = Callable[[str, int, int], None]
"""Is told the stage, how much of it is done, and how much there is."""

_LONGEST_NAME = 60
"""Characters of a field's name that are shown."""


@dataclass(frozen=True)
class Prepared:
    """Is data that may be trained on."""

    kind: str
    splits: Mapping[str, tuple[Row, ...]]
    """Rows of train, validation and test; the classes of training.data.rows."""
    inputs: Mapping[str, str]
    """SHA-256 of each file by its short name."""
    report: Report


def prepare(
    sources: Sequence[Path],
    *,
    kind: str,
    seed: int = 0,
    options: Options | None = None,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Reads, checks and splits files and folders of one kind (see training.data.rows).

    The same files, seed and options give the same result. Raises DataRejected, with every bad row named, where a row
    is bad or where the options say that doubtful data are to be refused; nothing is written in any case.
    """
    options = options or Options()
    imported = import_rows(sources, kind=kind, columns=options.columns, limits=options.limits, on_progress=on_progress)
    return _Preparation(imported, seed, options, on_progress).run()


def read_documents(
    sources: Sequence[Path], options: Options, *, on_progress: OnProgress | None = None
) -> tuple[Imported, list[Finding]]:
    """Reads documents to cut passages from, and says what is doubtful; personal data are treated as in rows.

    Raises DataRejected for a bad document, and where the options refuse one or leave none.
    """
    imported = import_rows(sources, kind="document", limits=options.limits, on_progress=on_progress)
    preparation = _Preparation(imported, 0, options, on_progress)
    return preparation.documents()


class _Preparation:
    """Walks through the stages and gathers findings."""

    def __init__(self, imported: Imported, seed: int, options: Options, on_progress: OnProgress | None) -> None:
        self._imported = imported
        self._seed = seed
        self._options = options
        self._on_progress = on_progress
        self._rows: list[Row] = list(imported.rows)
        self._findings: list[Finding] = []

    def run(self) -> Prepared:
        """Returns the prepared data."""
        self._files()
        self._fields()
        self._drop_copies()
        self._contradictions()
        personal = self._personal()
        self._lengths()
        languages = self._languages()
        dealt = self._split()
        splits = {name: tuple(row for row in self._rows if dealt[row.id] == name) for name in SPLITS}
        self._labels(splits)
        counts = {
            name: SplitCount(rows=rows, groups=groups)
            for name, (rows, groups) in counts_by_split(self._rows, dealt).items()
        }
        shares = {"validation": self._options.validation_share, "test": self._options.test_share}
        self._findings += [*few_groups(counts), *missed_shares(self._rows, dealt, shares)]
        imported = self._imported
        report = Report(
            kind=imported.kind,
            seed=self._seed,
            inputs=imported.inputs,
            rows_read=len(imported.rows),
            rows_kept=len(self._rows),
            splits=counts,
            lengths=quality.length_summary(self._rows),
            languages=languages,
            labels=quality.label_counts(self._rows),
            personal_data=personal,
            options=asdict(self._options),
            findings=tuple(self._findings),
        )
        return Prepared(imported.kind, splits, imported.inputs, report)

    def documents(self) -> tuple[Imported, list[Finding]]:
        """Returns the documents that may be read from, and what was found."""
        self._files()
        self._personal()
        return replace(self._imported, rows=tuple(self._rows)), self._findings

    def _find(self, code: str, text: str, rows: Sequence[Row], *, policy: str = "") -> None:
        """Notes a finding; drops the rows or refuses the data where the policy says so."""
        if not rows:
            return
        if policy == "refuse":
            limit = self._options.limits.max_problems
            problems = [_problem(row, f"{code}: {text}") for row in rows[:limit]]
            raise DataRejected(problems, num_problems=len(rows))
        if policy == "drop":
            gone = {row.id for row in rows}
            self._rows = [row for row in self._rows if row.id not in gone]
            text += " They were left out."
        self._findings.append(Finding.at(code, text, [row.origin for row in rows]))
        if not self._rows:
            raise DataRejected([Problem("data", 0, f"{code}: no row is left")])

    def _files(self) -> None:
        if skipped := self._imported.skipped:
            text = f"{len(skipped):,} files of the folders were not read: their names end otherwise than those of data."
            self._findings.append(Finding.at("FILES", text, skipped))

    def _fields(self) -> None:
        unused = self._imported.unused
        for name, count in list(unused.items())[:SHOWN]:
            # A file may call a field anything, at any length.
            shown = ascii(name)[1:-1]
            shown = shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}..."
            self._findings.append(Finding("FIELDS", f"The field {shown} of {count:,} rows is not used."))
        if len(unused) > SHOWN:
            self._findings.append(Finding("FIELDS", f"{len(unused) - SHOWN:,} other fields are not used."))

    def _drop_copies(self) -> None:
        _, copies = quality.split_duplicates(self._rows)
        self._find("DUPLICATES", f"{len(copies):,} rows repeat an earlier one word for word.", copies, policy="drop")

    def _contradictions(self) -> None:
        rows = quality.contradictions(self._rows)
        text = f"{len(rows):,} rows answer the same question differently."
        self._find("CONTRADICTIONS", text, rows, policy=self._options.contradictions)

    def _personal(self) -> dict[str, int]:
        regions = self._options.phone_regions
        rows, counts, text = personal_rows(self._rows, regions=regions, on_progress=self._on_progress)
        self._find("PERSONAL_DATA", text, rows, policy=self._options.personal_data)
        return counts

    def _lengths(self) -> None:
        for name, rows in quality.length_outliers(self._rows).items():
            self._find("LENGTHS", f"{len(rows):,} rows have an unusually long or short {name}.", rows)

    def _languages(self) -> dict[str, int]:
        counts, rare = quality.languages(self._rows, on_progress=self._on_progress)
        for name, rows in rare.items():
            self._find("LANGUAGES", f'{len(rows):,} rows seem to be in another language ("{name}").', rows)
        return counts

    def _labels(self, splits: Mapping[str, Sequence[Row]]) -> None:
        counts = quality.label_counts(self._rows)
        if len(counts) == 1:
            raise DataRejected([Problem("data", 0, "all rows have the same label; there is nothing to tell apart")])
        trained = {label for row in splits["train"] for label in row.answered()}
        lost = [row for name in SPLITS[1:] for row in splits[name] if counts and row.answered()[0] not in trained]
        self._find("SPLITS", f"{len(lost):,} held-out rows have a label that no training row has.", lost)

    def _split(self) -> dict[str, str]:
        clusters = self._near_duplicates()
        joined = self._options.near_duplicates == "join"
        if joined:
            self._drop_leaks(clusters)
        units = self._units(clusters if joined else [])
        dealt, filled = deal(
            units,
            seed=self._seed,
            validation_share=self._options.validation_share,
            test_share=self._options.test_share,
        )
        if filled:
            text = "The groups are so few that a split would have been empty; the nearest group was moved to it."
            self._findings.append(Finding("SPLITS", text))
        if self._options.split == "within_group":
            dealt = keep_in_training(units, dealt, seed=self._seed)
        dealt = self._keep_labels(units, dealt)
        if not joined:
            leaks = [row for rows in clusters for row in rows if len({dealt[row.id] for row in rows}) > 1]
            text = f"{len(leaks):,} rows have a near-duplicate in another split."
            self._find("NEAR_DUPLICATES", text, leaks, policy=self._options.near_duplicates)
        self._check_filled(dealt)
        return dealt

    def _keep_labels(self, units: Sequence[Unit], dealt: dict[str, str]) -> dict[str, str]:
        """Returns the splits with each label in train: which ones are rare must not depend on the seed."""
        if not quality.label_counts(self._rows):
            return dealt
        kept = keep_in_training(units, dealt, seed=self._seed, name=lambda row: row.answered()[0])
        moved = [row for row in self._rows if kept[row.id] != dealt[row.id]]
        text = f"{len(moved):,} rows were put into train, where their label would not have been otherwise."
        self._find("SPLITS", text, moved)
        return kept

    def _near_duplicates(self) -> list[list[Row]]:
        """Returns the rows that nearly repeat each other, cluster by cluster."""
        union = Union(len(self._rows))
        wordings, contexts = zip(*(row.compared() for row in self._rows), strict=True)
        threshold = self._options.near_duplicate_similarity
        for one, other in near_duplicates(wordings, contexts, threshold=threshold, on_progress=self._on_progress):
            union.join(one, other)
        clusters: dict[int, list[Row]] = defaultdict(list)
        for number, row in enumerate(self._rows):
            clusters[union.find(number)].append(row)
        return [rows for rows in clusters.values() if len(rows) > 1]

    def _drop_leaks(self, clusters: Sequence[Sequence[Row]]) -> None:
        """Leaves out the rows that nearly repeat one that is reserved for a stricter split."""
        leaks = [row for rows in clusters for row in rows if held_out(row) != strictest(rows)]
        text = f"{len(leaks):,} rows nearly repeat one that is reserved for validation or test."
        self._find("NEAR_DUPLICATES", text, leaks, policy="drop")

    def _units(self, clusters: Sequence[Sequence[Row]]) -> list[Unit]:
        by_name: dict[str, list[Row]] = defaultdict(list)
        by_group = self._options.split == "group"
        for row in self._rows:
            by_name[row.group if by_group else row.id].append(row)
        self._check_reserved(by_name)
        names = list(by_name)
        numbers = {row.id: number for number, name in enumerate(names) for row in by_name[name]}
        union = Union(len(names))
        for rows in clusters:
            present = [numbers[row.id] for row in rows if row.id in numbers]
            for other in present[1:]:
                union.join(present[0], other)
        joined: dict[int, list[str]] = defaultdict(list)
        for number, name in enumerate(names):
            joined[union.find(number)].append(name)
        units = [Unit(tuple(some), tuple(r for name in some for r in by_name[name])) for some in joined.values()]
        self._tell_joined(units)
        return units

    def _tell_joined(self, units: Sequence[Unit]) -> None:
        several = [unit for unit in units if len(unit.names) > 1]
        if not several:
            return
        what = "groups" if self._options.split == "group" else "rows"
        largest = max(len(unit.rows) for unit in several)
        text = f"{sum(len(unit.names) for unit in several):,} {what} nearly repeat another and were put into one split "
        text += f"with it; the largest set that stays together has {largest:,} of {len(self._rows):,} rows."
        self._findings.append(Finding.at("NEAR_DUPLICATES", text, [unit.rows[0].origin for unit in several]))

    def _check_reserved(self, by_name: Mapping[str, Sequence[Row]]) -> None:
        torn = [rows for rows in by_name.values() if len({held_out(row) for row in rows}) > 1]
        if torn:
            reason = "split: the rows of this group are given to several splits; correct it, or split within groups"
            raise DataRejected([_problem(rows[0], reason) for rows in torn[: self._options.limits.max_problems]])

    def _check_filled(self, dealt: Mapping[str, str]) -> None:
        shares = {"train": 1.0, "validation": self._options.validation_share, "test": self._options.test_share}
        empty = [name for name, share in shares.items() if share and name not in dealt.values()]
        if empty:
            hint = "give more rows, or set its share to 0"
            if self._options.split == "within_group":
                hint = "splitting within groups takes several rows of a group; give group, or split by group"
            raise DataRejected([Problem("data", 0, f"no row is left for {', '.join(empty)}: {hint}")])


def _problem(row: Row, reason: str) -> Problem:
    name, _, line = row.origin.rpartition(":")
    return Problem(name, int(line), reason)
