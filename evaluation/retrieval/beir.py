"""Reads a folder in BEIR layout (Thakur et al. 2021, arXiv 2104.08663): documents, queries, judgements.

    corpus.jsonl     {"_id": ..., "title": ..., "text": ...} a line; the title may be absent
    queries.jsonl    {"_id": ..., "text": ...} a line
    qrels.tsv        query, document and grade by tab, or qrels/<split>.tsv; a heading is allowed

Each may be compressed (.gz). What is wrong is raised with file and line.
"""

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tandem.errors import InvalidInput

_SHOWN = 3


@dataclass(frozen=True)
class Entry:
    """Is a document as the folder has it."""

    name: str
    title: str
    text: str


@dataclass
class Benchmark:
    """Is a folder that was read; the documents' texts stay on disk."""

    folder: Path
    corpus: Path
    documents: dict[str, int]
    """Line in the corpus by document."""
    queries: dict[str, str]
    """The queries that have a relevant document, by name."""
    judgements: dict[str, dict[str, int]]
    notes: list[str] = field(default_factory=list)
    """What was left out, with file and line."""

    def entries(self) -> Iterator[Entry]:
        """Yields the documents in the order of the file."""
        for _, row in _rows(self.corpus):
            yield Entry(row["_id"], row.get("title") or "", row["text"])


def read(folder: Path, *, split: str = "test") -> Benchmark:
    """Reads and checks a folder; raises InvalidInput with file and line for what cannot be used."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; name one with corpus.jsonl, queries.jsonl and qrels.tsv")
    corpus = _file(folder, "corpus.jsonl")
    documents = {name: line for line, name in _names(corpus)}
    texts = {row["_id"]: row["text"] for _, row in _checked(_file(folder, "queries.jsonl"))}
    found = Benchmark(folder, corpus, documents, {}, {})
    _judge(found, _file(folder, f"qrels/{split}.tsv", f"qrels.{split}.tsv", "qrels.tsv"), texts)
    found.queries = {name: texts[name] for name in texts if any(g > 0 for g in found.judgements.get(name, {}).values())}
    if not found.queries:
        raise InvalidInput(f"no query of {folder} has a relevant document in the corpus")
    if left := len(texts) - len(found.queries):
        found.notes.append(f"{left} of {len(texts)} queries have no relevant document in this split and are not asked")
    return found


def _names(path: Path) -> Iterator[tuple[int, str]]:
    for line, row in _checked(path):
        yield line, row["_id"]


def _checked(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows with their lines; refuses a name that occurs twice."""
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        if (before := seen.setdefault(row["_id"], line)) != line:
            raise _fault(path, line, f'has the "_id" {row["_id"]!r} of line {before}; give each its own')
        yield line, row
    if not seen:
        raise InvalidInput(f"{path} holds nothing")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _opened(path) as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                raise _fault(path, line, "is not a JSON object") from None
            if not isinstance(row, dict):
                raise _fault(path, line, "is not a JSON object")
            if isinstance(row.get("_id"), int):
                row["_id"] = str(row["_id"])
            for key, kept in (("_id", row.get("_id")), ("text", row.get("text"))):
                if not isinstance(kept, str) or (key == "_id" and not kept):
                    raise _fault(path, line, f'has no "{key}"' + (" that is a string" if kept is not None else ""))
            if not isinstance(row.get("title", ""), str | None):
                raise _fault(path, line, 'has a "title" that is no string')
            if not _is_text(row["_id"] + row["text"] + (row.get("title") or "")):
                raise _fault(path, line, "holds half of a surrogate pair, which is no text")
            yield line, row


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _judge(found: Benchmark, path: Path, texts: dict[str, str]) -> None:
    strangers: dict[str, list[int]] = {"query": [], "document": []}
    with _opened(path) as stream:
        for line, text in enumerate(stream, 1):
            columns = text.rstrip("\r\n").split("\t")
            if not text.strip() or (line == 1 and columns[-1].strip() == "score"):
                continue
            if len(columns) != 3:
                told = f"has {len(columns)} columns by tab; query, document and grade are wanted"
                raise _fault(path, line, told)
            query, document, grade = (column.strip() for column in columns)
            if not grade.removeprefix("-").isdecimal():
                raise _fault(path, line, f"has the grade {grade!r}; a whole number is wanted")
            if query not in texts:
                strangers["query"].append(line)
            elif document not in found.documents:
                strangers["document"].append(line)
            grades = found.judgements.setdefault(query, {})
            if grades.setdefault(document, int(grade)) != int(grade):
                raise _fault(path, line, f"grades document {document!r} of query {query!r} a second time, differently")
    for what, lines in strangers.items():
        if lines:
            shown = ", ".join(map(str, lines[:_SHOWN])) + (" ..." if len(lines) > _SHOWN else "")
            then = "they are not asked" if what == "query" else "they count as never found"
            found.notes.append(
                f"{path.name} names {len(lines)} times a {what} that is not there ({then}): line {shown}"
            )


def _file(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise InvalidInput(f"{folder} lacks {' or '.join(names)} (or one of them as .gz)")


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    line = 0

    def counted(stream: TextIO) -> Iterator[str]:
        nonlocal line
        for text in stream:
            line += 1
            yield text

    try:
        with io.TextIOWrapper(gzip.open(path) if path.suffix == ".gz" else path.open("rb"), encoding="utf-8") as stream:
            yield counted(stream)
    except UnicodeDecodeError:
        raise _fault(path, line + 1, "or one soon after is not UTF-8") from None
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None


def _fault(path: Path, line: int, what: str) -> InvalidInput:
    return InvalidInput(f"{path}, line {line}, {what}")
