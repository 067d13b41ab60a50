"""Turns users' files into checked rows: all of them, or none with every bad row named."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.data.limits import Limits
from training.data.reading import DataRejected, Problem, RawRow, Source, find_sources, is_table, raw_rows, read_bytes
from training.data.rows import IN_TABLE, KINDS, Document, Row


@dataclass(frozen=True)
class Imported:
    """Is what the files hold."""

    kind: str
    rows: tuple[Row, ...]
    """In the order of the files; every row has an id, a group and an origin."""
    inputs: dict[str, str]
    """SHA-256 of each file by its short name."""
    unused: dict[str, int]
    """Fields that were left out, with the number of rows that have them."""
    skipped: tuple[str, ...] = ()
    """Files of the folders that were not read, because of how their names end."""


def import_rows(
    sources: Sequence[Path],
    *,
    kind: str,
    columns: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Imported:
    """Reads files and folders of one kind; raises DataRejected with the bad rows, where there is one."""
    limits = limits or Limits()
    model = _model(kind)
    collector = _Collector(model, _mapping(model, columns or {}), limits)
    files, skipped = find_sources(sources, limits, documents=model is Document)
    inputs: dict[str, str] = {}
    for number, source in enumerate(files, 1):
        content, inputs[source.name] = read_bytes(source, limits)
        for raw in raw_rows(source, content, limits):
            collector.take(source, raw)
        if on_progress:
            on_progress("reading files", number, len(files))
    rows = collector.finish()
    return Imported(kind, rows, inputs, dict(sorted(collector.unused.items())), tuple(skipped))


def _model(kind: str) -> type[Row]:
    if kind not in KINDS:
        raise DataRejected([Problem("data", 0, f"{kind} is no kind of data; there are {', '.join(KINDS)}")])
    return KINDS[kind]


def _mapping(model: type[Row], columns: Mapping[str, str]) -> dict[str, str]:
    """Returns our field by the file's name; a field whose name in the file is "" is read from none."""
    if unknown := sorted(set(columns) - model.field_names()):
        known = ", ".join(sorted(model.field_names()))
        raise DataRejected([Problem("columns", 0, f"{', '.join(unknown)}: not among the fields {known}")])
    return {theirs: ours for ours, theirs in columns.items()}


class _Collector:
    """Checks rows one after the other and remembers what is wrong."""

    def __init__(self, model: type[Row], mapping: Mapping[str, str], limits: Limits) -> None:
        self.unused: Counter[str] = Counter()
        self._model = model
        self._mapping = mapping
        self._mapped = frozenset(mapping.values())
        self._limits = limits
        self._rows: list[Row] = []
        self._problems: list[Problem] = []
        self._num_problems = 0
        self._ids: dict[str, str] = {}

    def take(self, source: Source, raw: RawRow | Problem) -> None:
        """Checks a row and keeps it or its problems."""
        if isinstance(raw, Problem):
            self._complain(raw)
            return
        fields = self._renamed(raw.fields)
        try:
            row = self._model.model_validate(fields, context=IN_TABLE if is_table(source) else None)
        except ValidationError as error:
            for reason in _reasons(error):
                self._complain(Problem(source.name, raw.line, reason))
            return
        origin = f"{source.name}:{raw.line}"
        if (size := sum(map(len, row.texts().values()))) > self._limits.max_row_characters:
            reason = f"holds {size:,} characters, at most {self._limits.max_row_characters:,} (max_row_characters)"
            self._complain(Problem(source.name, raw.line, reason))
        elif row.id and row.id in self._ids:
            hint = f"in {self._ids[row.id]}; make it unique, or leave the field id out"
            self._complain(Problem(source.name, raw.line, f"id: was used before, {hint}"))
        elif len(self._rows) >= self._limits.max_rows:
            reason = f"there are more than {self._limits.max_rows:,} rows (max_rows); take a sample"
            raise DataRejected([*self._problems, Problem(source.name, raw.line, reason)])
        else:
            if row.id:
                self._ids[row.id] = origin
            self._rows.append(row.model_copy(update={"origin": origin}))

    def finish(self) -> tuple[Row, ...]:
        """Returns the rows; raises DataRejected where one was bad."""
        if self._num_problems:
            raise DataRejected(self._problems, num_problems=self._num_problems)
        if not self._rows:
            raise DataRejected([Problem("data", 0, "the files hold no row")])
        return tuple(_identified(self._rows))

    def _renamed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        known = self._model.field_names()
        renamed: dict[str, Any] = {}
        for name, value in fields.items():
            ours = self._mapping.get(name, "" if name in self._mapped else name)
            if ours not in known:
                self.unused[name] += 1
            elif value is not None:
                renamed[ours] = value
        return renamed

    def _complain(self, problem: Problem) -> None:
        self._num_problems += 1
        if len(self._problems) < self._limits.max_problems:
            self._problems.append(problem)


def _identified(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields the rows with ids and groups; an id comes from the content, so that adding rows changes none."""
    taken = {row.id for row in rows if row.id}
    for row in rows:
        name, number = row.id or row.content_hash(), 2
        while not row.id and name in taken:
            name, number = f"{row.content_hash()}-{number}", number + 1
        taken.add(name)
        yield row.model_copy(update={"id": name, "group": row.group or row.own_group() or name})


def _reasons(error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(part) for part in detail["loc"])
        what = detail["msg"].removeprefix("Value error, ")
        yield f"{where}: {what}" if where else what
