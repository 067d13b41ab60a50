"""The file that names the live sources.

[[source]]
name = "bulletins"              # also the beginning of its documents' ids
tenant = "halden"
groups = ["claims"]             # who may see the documents; none: the whole tenant
kind = "folder"
path = "/srv/bulletins"
delete_missing = true           # a document whose file is gone is deleted

[[source]]
name = "prices"
tenant = "halden"
kind = "feed"
format = "jsonl"                # or "rss", which reads Atom too
url = "https://intranet.example/prices.jsonl"
every_seconds = 10
"""

import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from tandem.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SECTION = re.compile(r"\s*\[\[\s*source\s*\]\]")
_MAX_SOURCES = 100
_EXPECTED = {str: "a text", bool: "true or false", float: "a number", tuple: "a list of texts"}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Configures one live source; times in seconds."""

    name: str
    tenant: str
    kind: str
    groups: tuple[str, ...] = ()
    former_groups: tuple[str, ...] = ()
    """Groups that its documents had before, so that those are still found and replaced."""
    path: str = ""
    url: str = ""
    format: str = ""
    every_seconds: float = 0.0
    delete_missing: bool = False
    token_file: str = ""
    """Bearer token that is presented to a feed."""


def load_sources(path: Path | None) -> list[SourceConfig]:
    """Reads the file; raises ConfigError that names the line and what to do."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"RETRIEVER_SOURCES_FILE: cannot read {path} as text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    lines = _Lines(path, text)
    rows = table.pop("source", [])
    if table or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path}: holds {', '.join(table) or 'source'} beside [[source]]; write [[source]] sections")
    if len(rows) > _MAX_SOURCES:
        raise ConfigError(f"{path}: has {len(rows)} sources; at most {_MAX_SOURCES} can be looked after")
    sources = [_source(row, lines, number) for number, row in enumerate(rows)]
    for number, source in enumerate(sources):
        if source.name in {other.name for other in sources[:number]}:
            raise lines.fault(number, "name", f'"{source.name}" is taken by a source above; choose another')
    return sources


class _Lines:
    """Finds where a key stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def fault(self, section: int, key: str, message: str) -> ConfigError:
        heads = [number for number, line in enumerate(self._lines) if _SECTION.match(line)]
        at = heads[section] if section < len(heads) else 0
        end = heads[section + 1] if section + 1 < len(heads) else len(self._lines)
        spelt = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
        line = next((number for number in range(at, end) if spelt.match(self._lines[number])), at)
        return ConfigError(f"{self._path}, line {line + 1}: {key} {message}")


def _source(row: dict[str, Any], lines: _Lines, number: int) -> SourceConfig:
    known = {field.name: field for field in fields(SourceConfig)}
    hints = get_type_hints(SourceConfig)
    values = {}
    for key, value in row.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise lines.fault(number, key, "is not known" + (f"; did you mean {near[0]}?" if near else ""))
        kind = getattr(hints[key], "__origin__", hints[key])
        values[key] = _typed(value, kind)
        if values[key] is None:
            raise lines.fault(number, key, f"must be {_EXPECTED[kind]}")
    for key, field in known.items():
        if field.default is MISSING and key not in values:
            raise lines.fault(number, key, "is missing; add it to this section")
    source = SourceConfig(**{"every_seconds": 2.0 if values["kind"] == "folder" else 60.0, **values})
    for key, message in _faults(source):
        raise lines.fault(number, key, message)
    return source


def _typed(value: object, kind: type) -> Any:
    """Returns the value as that type, or None."""
    if kind is tuple:
        is_list = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        return tuple(sorted(set(value))) if is_list and isinstance(value, list) else None
    if kind is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if isinstance(value, kind) else None


def _faults(source: SourceConfig) -> list[tuple[str, str]]:
    """Returns what is wrong with a source: the key, and what completes "<key> ..."."""
    rules = [
        (_NAME.fullmatch(source.name), "name", "must have 1 to 32 characters of a-z 0-9 -, the first no hyphen"),
        (0 < len(source.tenant) <= 1024, "tenant", "must name the tenant whose documents these are"),
        (len("".join(source.groups).encode()) <= 8_000, "groups", "must have at most 8,000 bytes in all"),
        (len(source.groups) <= 32, "groups", "must be at most 32"),
        (source.kind in ("folder", "feed"), "kind", 'must be "folder" or "feed"'),
        (1 <= source.every_seconds <= 86_400, "every_seconds", "must be 1 to 86400"),
    ]
    if source.kind == "folder":
        rules.append((Path(source.path).is_absolute(), "path", "must be the absolute path of a folder"))
        rules += [(not getattr(source, key), key, "is for feeds; remove it") for key in ("url", "format", "token_file")]
    if source.kind == "feed":
        rules.append((not source.path, "path", "is for folders; give a feed its url"))
        rules.append((source.format in ("rss", "jsonl"), "format", 'must be "rss" (which reads Atom too) or "jsonl"'))
        rules.append((_is_web(source.url), "url", "must be like https://host/path, without a user or password"))
    return [(key, message) for right, key, message in rules if not right]


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
