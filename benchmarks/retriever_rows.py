"""Reads the chunks' rows of a Milvus Lite file that nobody uses, with pymilvus alone.

    python -m benchmarks.retriever_rows FILE

It prints one JSON object a line: {"document_id": ..., "version": ..., "start": ..., "end": ...}.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE = 4_000
_TIMEOUT_S = 60.0


def open_file(path: Path) -> Any:
    """Returns a client on an engine of its own."""
    from pymilvus import MilvusClient

    return MilvusClient(str(path))


def collections(client: Any) -> list[str]:
    """Returns the collections that hold chunks: those with dense vectors; one for each snapshot."""
    found = []
    for name in sorted(client.list_collections(timeout=_TIMEOUT_S)):
        fields = {field["name"] for field in client.describe_collection(name, timeout=_TIMEOUT_S)["fields"]}
        if "dense" in fields:
            found.append(name)
    return found


def rows(client: Any, collection: str, fields: list[str]) -> Iterator[dict[str, Any]]:
    """Yields all rows by their primary keys, page by page."""
    client.load_collection(collection, timeout=_TIMEOUT_S)
    ids = [row["id"] for row in client.query(collection, filter='id > ""', output_fields=["id"], timeout=_TIMEOUT_S)]
    for start in range(0, len(ids), _PAGE):
        yield from client.get(collection, ids=ids[start : start + _PAGE], output_fields=fields, timeout=_TIMEOUT_S)


def named(row_id: str) -> tuple[str, str]:
    """Returns document and version of a chunk's primary key."""
    _, document_id, version, _ = row_id.split("/")
    return document_id, version


def _main(path: Path) -> None:
    client = open_file(path)
    for collection in collections(client):
        for row in rows(client, collection, ["id", "span_start", "span_end"]):
            document_id, version = named(row["id"])
            told = {"document_id": document_id, "version": version, "start": row["span_start"], "end": row["span_end"]}
            print(json.dumps(told | {"collection": collection}))
    client.close()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
