"""Reads the chunks' rows of a Milvus Lite file that nobody uses, with pymilvus alone.

    python -m benchmarks.retriever_rows FILE [VECTORS.npz]

It prints one JSON object a line: {"document_id": ..., "version": ..., "start": ..., "end": ..., "content": ...}, and
writes the dense vectors in the same order where it is told where to.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE = 1_000
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
    last = ""
    while True:
        where = f'id > "{last}"'  # a limited query gives the rows by primary key
        page = client.query(collection, filter=where, limit=_PAGE, output_fields=fields, timeout=_TIMEOUT_S)
        if not page:
            return
        yield from page
        last = max(row["id"] for row in page)


def named(row_id: str) -> tuple[str, str]:
    """Returns document and version of a chunk's primary key."""
    _, document_id, version, _ = row_id.split("/")
    return document_id, version


def _main(path: Path, target: Path | None) -> None:
    import numpy as np

    client = open_file(path)
    vectors = []
    fields = ["id", "span_start", "span_end", "content", *(["dense"] if target else [])]
    for collection in collections(client):
        for row in rows(client, collection, fields):
            document_id, version = named(row["id"])
            told = {"document_id": document_id, "version": version, "start": row["span_start"], "end": row["span_end"]}
            print(json.dumps(told | {"content": row["content"], "collection": collection}))
            if target:
                vectors.append(np.asarray(row["dense"], dtype=np.float32))
    client.close()
    if target:
        np.savez(target, vectors=np.stack(vectors))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
