"""Reads a feed in a process of its own, which may die alone: ``python -m services.retriever.sources.reading FORMAT``.

Takes the feed's bytes on stdin and writes a line of JSON for each document, or {"fault": ...} for one that cannot be
read; {"fatal": ...} says that nothing can.
"""

import json
import resource
import sys
from calendar import timegm
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any

MAX_ITEMS = 10_000
_MEMORY = 1024 * 1024 * 1024
_CPU_S = 30
_MEDIA_TYPES = ("text/plain", "text/markdown", "text/html")
_MAX_LABELS = 40_000
_MAX_TITLE, _MAX_VALUE, _MAX_KEY, _MAX_ATTRIBUTES = 512, 512, 64, 30


class Faulty(Exception):
    """Says what is wrong with one document of a feed."""


def read_json_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Yields a row for each line that is not empty."""
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield _json_row(json.loads(line))
        except (ValueError, RecursionError, OverflowError) as error:
            yield {"fault": f"line {number} is not JSON in UTF-8: {type(error).__name__}"}
        except Faulty as error:
            yield {"fault": f"line {number}: {error}"}


def _json_row(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise Faulty("must be an object")
    identity, media_type = _text(row, "id"), row.get("media_type", "text/plain")
    text = _text(row, "text")
    if media_type not in _MEDIA_TYPES:
        raise Faulty(f"media_type must be one of {', '.join(_MEDIA_TYPES)}")
    attributes = row.get("attributes") or {}
    if not isinstance(attributes, dict) or len(attributes) > _MAX_ATTRIBUTES:
        raise Faulty(f"attributes must be an object of at most {_MAX_ATTRIBUTES} labels")
    for key, value in attributes.items():
        if not isinstance(value, str) or not 0 < len(key) <= _MAX_KEY or len(value) > _MAX_VALUE:
            raise Faulty(f"attributes must have keys of 1 to {_MAX_KEY} and texts of at most {_MAX_VALUE} characters")
    if len(json.dumps(attributes).encode()) > _MAX_LABELS:
        raise Faulty(f"attributes must have at most {_MAX_LABELS} bytes in all")
    since, until = _moment(row, "valid_from"), _moment(row, "valid_until")
    if since is not None and until is not None and since >= until:
        raise Faulty("valid_until must be after valid_from")
    return {
        "id": identity,
        "title": str(row.get("title") or "")[:_MAX_TITLE].strip(),
        "source": identity[:255],
        "media_type": media_type,
        "text": text,
        "attributes": attributes,
        "valid_from": since,
        "valid_until": until,
        "changed": _moment(row, "updated"),
    }


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Faulty(f"{key} must be a text that is not empty")
    return value


def _moment(row: dict[str, Any], key: str) -> int | None:
    """Returns microseconds since 1970."""
    value = row.get(key)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6)
    except (ValueError, TypeError, OverflowError):
        raise Faulty(f"{key} must be a time like 2026-01-31T12:00:00Z") from None


def read_rss(data: bytes) -> Iterator[dict[str, Any]]:
    """Yields a row for each entry of an RSS or Atom feed."""
    from xml.sax import SAXException

    import feedparser

    parsed = feedparser.parse(data, sanitize_html=False, resolve_relative_uris=False)
    if not parsed.get("version"):
        yield {"fatal": "it is neither RSS nor Atom"}
        return
    if isinstance(parsed.get("bozo_exception"), SAXException):
        yield {"fault": f"it is not well-formed ({type(parsed.bozo_exception).__name__}); some of it may be missing"}
    for number, entry in enumerate(parsed.entries, 1):
        identity = entry.get("id") or entry.get("link")
        if not identity:
            yield {"fault": f"entry {number} has neither an id nor a link"}
            continue
        title, link = str(entry.get("title") or ""), str(entry.get("link") or "")
        contents = [content.get("value") or "" for content in entry.get("content") or ()]
        body = "\n".join(filter(None, contents)) or entry.get("summary") or ""
        moved = entry.get("updated_parsed") or entry.get("published_parsed")
        yield {
            "id": identity,
            "title": " ".join(title.split())[:_MAX_TITLE],
            "source": (link or identity)[:255],
            "media_type": "text/html",
            "text": f"<h1>{escape(title)}</h1>\n{body}",
            "attributes": {"link": link} if 0 < len(link) <= _MAX_VALUE else {},
            "valid_from": None,
            "valid_until": None,
            "changed": None if moved is None else timegm(moved) * 1_000_000,
        }


def main() -> None:
    """Reads stdin and writes to stdout, under limits."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    data = sys.stdin.buffer.read()
    rows = read_json_lines(data) if sys.argv[1] == "jsonl" else read_rss(data)
    for number, row in enumerate(rows):
        if number >= MAX_ITEMS:
            row = {"fatal": f"it holds more than {MAX_ITEMS} documents; have it show fewer"}
        # Escaped, so that lone surrogates stand for themselves; whoever reads the line refuses them.
        sys.stdout.write(json.dumps(row) + "\n")
        if "fatal" in row:
            break


if __name__ == "__main__":
    main()
