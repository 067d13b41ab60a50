"""Turns documents and chunks into rows of Milvus and back."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from services.retriever.backend.keys import (
    ALWAYS,
    NEVER,
    document_row,
    encode,
    group_marks,
    labels,
    part_row,
    part_rows,
)
from services.retriever.backend.schema import NO_VECTOR
from services.retriever.domain import (
    Chunk,
    Cut,
    DocumentKey,
    Header,
    Hit,
    Near,
    NewChunk,
    NewDocument,
    StoredDocument,
)

# Four bytes of UTF-8 each stay within a VARCHAR.
PART_CHARACTERS = 16_000
ROWS_PER_CALL = 250
CHUNK_FIELDS = ["id", "span_start", "span_end", "page", "prefix", "headings", "content"]
NEAR_FIELDS = ["id", "span_start", "span_end"]
DOCUMENT_FIELDS = ["id", "version", "record"]


def document_to_row(document: StoredDocument) -> dict[str, Any]:
    """Returns the row of <name>_documents."""
    header = document.header
    record = {
        "tenant": document.key.tenant,
        "source": header.source,
        "media_type": header.media_type,
        "title": header.title,
        "groups": header.groups,
        "valid_from": header.valid_from,
        "valid_until": header.valid_until,
        "attributes": dict(header.attributes),
        "content_sha256": document.content_sha256,
        "header_sha256": document.header_sha256,
        "num_characters": document.num_characters,
        "outline_characters": document.outline_characters,
        "cuts": document.cuts,
        "update_time": document.update_time,
    }
    return {
        "id": document_row(document.key),
        "tenant": encode(document.key.tenant),
        "groups": group_marks(header.groups),
        "version": document.version,
        "record": json.dumps(record, ensure_ascii=False),
        "vector": NO_VECTOR,
    }


def row_to_document(row: Mapping[str, Any], *, live: str) -> StoredDocument:
    """Returns the document of a row of <name>_documents; live is the key of the live snapshot."""
    record = json.loads(row["record"])
    cuts = {key: Cut(*cut) for key, cut in record["cuts"].items()}
    header = Header(
        source=record["source"],
        media_type=record["media_type"],
        title=record["title"],
        groups=tuple(record["groups"]),
        valid_from=record["valid_from"],
        valid_until=record["valid_until"],
        attributes=record["attributes"],
    )
    return StoredDocument(
        key=DocumentKey(record["tenant"], row["id"].partition("/")[2]),
        header=header,
        version=row["version"],
        content_sha256=record["content_sha256"],
        header_sha256=record["header_sha256"],
        num_chunks=cuts[live].num_chunks if live in cuts else 0,
        num_characters=record["num_characters"],
        update_time=record["update_time"],
        cuts=cuts,
        outline_characters=record["outline_characters"],
    )


def chunk_rows(document: StoredDocument, chunks: Sequence[NewChunk]) -> list[dict[str, Any]]:
    """Returns the rows of a version in the chunks of a snapshot."""
    header = document.header
    shared = {
        "tenant": encode(document.key.tenant),
        "groups": group_marks(header.groups),
        "valid_from": ALWAYS if header.valid_from is None else header.valid_from,
        "valid_until": NEVER if header.valid_until is None else header.valid_until,
        "document": encode(document.key.document_id),
        "media_type": encode(header.media_type),
        "labels": labels(header.attributes),
        "updated": document.update_time,
    }
    ids = part_rows(document_row(document.key), document.version, len(chunks))
    return [
        {
            **shared,
            "id": row_id,
            "span_start": piece.chunk.start,
            "span_end": piece.chunk.end,
            "page": piece.chunk.page or 0,
            "prefix": piece.prefix_length,
            "headings": json.dumps(piece.chunk.headings, ensure_ascii=False),
            "content": piece.content,
            "dense": list(piece.vector),
        }
        for row_id, piece in zip(ids, chunks, strict=True)
    ]


def cut_of(chunks: Sequence[NewChunk]) -> Cut:
    """Returns what a version's row tells of its chunks in a snapshot."""
    digest = hashlib.sha256(json.dumps([chunk.content for chunk in chunks]).encode()).hexdigest()
    return Cut(len(chunks), digest[:16])


def text_rows(new: NewDocument, outline: str) -> list[dict[str, Any]]:
    """Returns the rows of <name>_texts for a version: its text, then its outline."""
    parts = [
        some[start : start + PART_CHARACTERS]
        for some in (new.text, outline)
        for start in range(0, len(some), PART_CHARACTERS)
    ]
    ids = part_rows(document_row(new.document.key), new.document.version, len(parts))
    return [{"id": row_id, "text": part, "vector": NO_VECTOR} for row_id, part in zip(ids, parts, strict=True)]


def text_ids(document: StoredDocument) -> list[str]:
    """Returns the primary keys of the parts of a version's text."""
    return part_rows(document_row(document.key), document.version, num_parts(document.num_characters))


def outline_ids(document: StoredDocument) -> list[str]:
    """Returns the primary keys of the parts of a version's outline, which come after those of its text."""
    first, count = num_parts(document.num_characters), num_parts(document.outline_characters)
    row = document_row(document.key)
    return [part_row(row, document.version, number) for number in range(first, first + count)]


def covering(document: StoredDocument, start: int, end: int) -> list[str]:
    """Returns the primary keys of the parts that hold a range of a version's text."""
    row = document_row(document.key)
    numbers = range(start // PART_CHARACTERS, num_parts(end))
    return [part_row(row, document.version, number) for number in numbers]


def cut_out(parts: Sequence[str], start: int, end: int) -> str:
    """Returns the range [start, end) of a text out of the parts that cover it."""
    first = start - start % PART_CHARACTERS
    return "".join(parts)[start - first : end - first]


def num_parts(num_characters: int) -> int:
    """Returns in how many parts a text is kept."""
    return -(-num_characters // PART_CHARACTERS)


def entity_to_hit(tenant: str, hit: Mapping[str, Any]) -> Hit:
    """Returns one hit of a search among a tenant's chunks."""
    entity = hit["entity"]
    row_id = entity["id"]
    _, document_id, version, number = row_id.split("/")
    chunk = Chunk(
        start=entity["span_start"],
        end=entity["span_end"],
        headings=_headings(entity["headings"]),
        page=entity["page"] or None,
    )
    text = entity["content"][entity["prefix"] :]
    return Hit(
        row_id=row_id,
        key=DocumentKey(tenant, document_id),
        version=version,
        chunk=chunk,
        text=text,
        ordinal=int(number),
        score=hit["distance"],
    )


@lru_cache(maxsize=1024)
def _headings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def around(hit: Hit, distance: int) -> list[str]:
    """Returns the primary keys of the chunks at most so many places from a hit, as far as they may exist."""
    row, version, _ = hit.row_id.rsplit("/", 2)
    return [
        part_row(row, version, number) for number in range(max(0, hit.ordinal - distance), hit.ordinal + distance + 1)
    ]


def entity_to_near(entity: Mapping[str, Any]) -> Near:
    """Returns the place of a chunk's row."""
    ordinal = int(entity["id"].rpartition("/")[2])
    return Near(ordinal=ordinal, start=int(entity["span_start"]), end=int(entity["span_end"]))


def slices(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Yields the items in pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
