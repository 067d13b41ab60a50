"""Reads users' files into raw rows: JSON Lines, CSV and plain text, within limits, and names every line it cannot read.

A file is read once and hashed as read, so the hash in a run's record is that of the bytes that were learnt from.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from training.data.limits import Limits

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
TEXTS = (".txt", ".md")
_BOM = "\ufeff"


@dataclass(frozen=True)
class Problem:
    """Is what is wrong with one line; the reason never repeats what the line holds."""

    file: str
    line: int
    """Counted from 1; 0 speaks of the file."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class RawRow:
    """Is a row as it stands in a file."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Is a file to read and the name by which reports and records call it."""

    path: Path
    name: str


class DataRejected(ValueError):
    """Says that data cannot be used, with the problems line by line; nothing of them was taken."""

    def __init__(self, problems: Sequence[Problem], *, num_problems: int | None = None) -> None:
        self.problems = tuple(problems)
        self.num_problems = len(self.problems) if num_problems is None else num_problems
        hidden = self.num_problems - len(self.problems)
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join([*lines, f"... and {hidden} more"] if hidden else lines))


def find_sources(paths: Sequence[Path], limits: Limits, *, documents: bool) -> tuple[list[Source], list[str]]:
    """Returns the files under the paths with distinct short names, and the names of those in folders that are not read.

    Raises DataRejected where there is none to read.
    """
    known = TABLES + LINES + (TEXTS if documents else ())
    files: list[tuple[Path, Path]] = []
    others: list[str] = []
    for path in paths:
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
            readable = [p for p in found if _suffix(p) in known]
            if not readable:
                _refuse(str(path), f"holds no file that ends in {', '.join(known)}")
            files += [(p, Path(path.name) / p.relative_to(path)) for p in readable]
            others += [_plain(Path(path.name) / p.relative_to(path)) for p in found if _suffix(p) not in known]
        elif not path.is_file():
            _refuse(str(path), "is no file and no folder")
        elif _suffix(path) not in known:
            hint = "; write one JSON object a line and name it .jsonl" if path.suffix == ".json" else ""
            _refuse(str(path), f"does not end in {', '.join(known)}{hint}")
        else:
            files.append((path, Path(path.name)))
        if len(files) > limits.max_files:
            _refuse(str(path), f"there are more than {limits.max_files} files (max_files)")
    if not files:
        raise DataRejected([Problem("data", 0, "no file was given")])
    return _named(files), others


def _plain(path: Path) -> str:
    """Returns a name that records can write down: a file's may hold bytes that are no UTF-8."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _named(files: Sequence[tuple[Path, Path]]) -> list[Source]:
    sources: list[Source] = []
    taken: set[str] = set()
    for path, short in files:
        plain = _plain(short)
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain} ({number})", number + 1
        taken.add(name)
        sources.append(Source(path, name))
    return sources


def _refuse(name: str, reason: str) -> NoReturn:
    raise DataRejected([Problem(name, 0, reason)])


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def read_bytes(source: Source, limits: Limits) -> tuple[bytes, str]:
    """Returns a file's content, decompressed, and the file's SHA-256; raises DataRejected where it is too large."""
    try:
        with source.path.open("rb") as stream:
            content = stream.read(limits.max_file_bytes + 1)
    except OSError as error:
        _refuse(source.name, f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(content).hexdigest()
    if len(content) <= limits.max_file_bytes and source.path.suffix.lower() == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as archive:
                content = archive.read(limits.max_file_bytes + 1)
        except (OSError, EOFError, zlib.error):
            _refuse(source.name, "is no complete gzip file")
    if len(content) > limits.max_file_bytes:
        _refuse(source.name, f"is larger than {limits.max_file_bytes:,} bytes (max_file_bytes); split it")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(source.name, "is UTF-16; save it as UTF-8")
    if not content.strip():
        _refuse(source.name, "is empty")
    return content, sha256


def is_table(source: Source) -> bool:
    """Tells whether the file is a table, whose cells hold nothing but text."""
    return _suffix(source.path) in TABLES


def raw_rows(source: Source, content: bytes, limits: Limits) -> Iterator[RawRow | Problem]:
    """Yields each row or what is wrong with it, in the file's order."""
    suffix = _suffix(source.path)
    if suffix in LINES:
        yield from _json_rows(source, content, limits)
    elif suffix in TABLES:
        with _field_limit(limits.max_line_bytes):
            yield from _table_rows(source, content)
    else:
        yield _text_row(source, content)


def _decode(source: Source, number: int, line: bytes) -> str | Problem:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return Problem(source.name, number, f"is not UTF-8 (byte 0x{byte:02X} at {error.start + 1}); save it as UTF-8")
    return text.removeprefix(_BOM) if number == 1 else text


def _json_rows(source: Source, content: bytes, limits: Limits) -> Iterator[RawRow | Problem]:
    for number, line in enumerate(io.BytesIO(content), 1):
        if len(line) > limits.max_line_bytes:
            yield Problem(source.name, number, f"is longer than {limits.max_line_bytes:,} bytes (max_line_bytes)")
        elif line.strip():
            text = _decode(source, number, line)
            yield text if isinstance(text, Problem) else _json_row(source, number, text.strip())


def _json_row(source: Source, number: int, text: str) -> RawRow | Problem:
    try:
        value = json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_no_constant, parse_float=_finite, parse_int=str
        )
    except json.JSONDecodeError as error:
        hint = "; one JSON object a line is needed, not an array" if text.lstrip().startswith("[") else ""
        return Problem(source.name, number, f"is not valid JSON: {error.msg} at column {error.colno}{hint}")
    except (ValueError, RecursionError) as error:
        return Problem(source.name, number, str(error) if isinstance(error, _Unclear) else "is too deep or too large")
    if not isinstance(value, dict):
        return Problem(source.name, number, "is no JSON object; one object a line is needed")
    return RawRow(number, value)


class _Unclear(ValueError):
    """Says that JSON parses but does not mean one thing."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unclear("names a field twice")
    return found


def _finite(text: str) -> str:
    """Returns a number as it stands: 1.50 is a price, 1.5 is not what was written."""
    if not math.isfinite(float(text)):
        raise _Unclear("holds a number that is too large")
    return text


def _no_constant(name: str) -> NoReturn:
    raise _Unclear(f"holds {name}, which is no JSON")


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table_rows(source: Source, content: bytes) -> Iterator[RawRow | Problem]:
    broken: dict[int, Problem] = {}

    def lines() -> Iterator[str]:
        for number, line in enumerate(io.BytesIO(content), 1):
            text = _decode(source, number, line)
            if isinstance(text, Problem):
                broken[number] = text
                text = line.decode("utf-8", "replace")
            yield text

    head = content.split(b"\n", 1)[0]
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(source.name, line, f"is not valid CSV: {error}; what follows was not read")
            return
        if found := [broken.pop(number) for number in range(line, reader.line_num + 1) if number in broken]:
            yield from found
            if not names:
                return
        elif not names:
            names = [name.strip() for name in cells]
            if len(set(names)) < len(names) or not all(names):
                yield Problem(source.name, line, "the header has an empty or a repeated name; the file was not read")
                return
        elif cells and len(cells) != len(names):
            yield Problem(source.name, line, f"has {len(cells)} cells, the header has {len(names)}")
        elif cells:
            yield RawRow(line, {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()})


def _text_row(source: Source, content: bytes) -> RawRow | Problem:
    texts: list[str] = []
    for number, line in enumerate(io.BytesIO(content), 1):
        text = _decode(source, number, line)
        if isinstance(text, Problem):
            return text
        texts.append(text)
    return RawRow(1, {"document_id": source.name, "title": Path(source.name).stem, "text": "".join(texts)})
