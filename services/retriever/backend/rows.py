"""Turns documents and chunks into rows of Milvus and back."""

import json
from collections.abc import Mapping
from typing import Any

from services.retriever.backend.keys import ALWAYS, NEVER, document_row, encode, group_marks, part_rows
from services.retriever.backend.schema import NO_VECTOR
from services.retriever.domain import Chunk, DocumentKey, Header, Hit, NewDocument, StoredDocument

# Four bytes of UTF-8 each stay within a VARCHAR.
PART_CHARACTERS = 16_000
CHUNK_FIELDS = ["id", "span_start", "span_end", "page", "prefix", "headings", "content"]
DOCUMENT_FIELDS = ["id", "version", "record"]


def document_to_row(document: StoredDocument) -> dict[str, Any]:
    """Returns the row of <name>_documents."""
    header = document.header
    record = {
        "source": header.source,
        "media_type": header.media_type,
        "title": header.title,
        "groups": header.groups,
        "valid_from": header.valid_from,
        "valid_until": header.valid_until,
        "attributes": dict(header.attributes),
        "content_sha256": document.content_sha256,
        "header_sha256": document.header_sha256,
        "num_chunks": document.num_chunks,
        "num_characters": document.num_characters,
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


def row_to_document(tenant: str, row: Mapping[str, Any]) -> StoredDocument:
    """Returns the document of a row of <name>_documents; tenant is the one whose rows were asked for."""
    record = json.loads(row["record"])
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
        key=DocumentKey(tenant, row["id"].partition("/")[2]),
        header=header,
        version=row["version"],
        content_sha256=record["content_sha256"],
        header_sha256=record["header_sha256"],
        num_chunks=record["num_chunks"],
        num_characters=record["num_characters"],
        update_time=record["update_time"],
    )


def chunk_rows(new: NewDocument) -> list[dict[str, Any]]:
    """Returns the rows of <name> for a version."""
    document = new.document
    header = document.header
    shared = {
        "tenant": encode(document.key.tenant),
        "groups": group_marks(header.groups),
        "valid_from": ALWAYS if header.valid_from is None else header.valid_from,
        "valid_until": NEVER if header.valid_until is None else header.valid_until,
    }
    ids = part_rows(document_row(document.key), document.version, len(new.chunks))
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
        for row_id, piece in zip(ids, new.chunks, strict=True)
    ]


def text_rows(new: NewDocument) -> list[dict[str, Any]]:
    """Returns the rows of <name>_texts for a version."""
    ids = text_ids(new.document)
    parts = [new.text[start : start + PART_CHARACTERS] for start in range(0, len(new.text), PART_CHARACTERS)]
    return [{"id": row_id, "text": part, "vector": NO_VECTOR} for row_id, part in zip(ids, parts, strict=True)]


def text_ids(document: StoredDocument) -> list[str]:
    """Returns the primary keys of the parts of a version's text."""
    return part_rows(document_row(document.key), document.version, num_parts(document.num_characters))


def num_parts(num_characters: int) -> int:
    """Returns in how many parts a text is kept."""
    return -(-num_characters // PART_CHARACTERS)


def entity_to_hit(tenant: str, hit: Mapping[str, Any]) -> Hit:
    """Returns one hit of a search among a tenant's chunks."""
    entity = hit["entity"]
    row_id = str(entity["id"])
    _, document_id, version, _ = row_id.split("/")
    chunk = Chunk(
        start=int(entity["span_start"]),
        end=int(entity["span_end"]),
        headings=tuple(json.loads(entity["headings"])),
        page=int(entity["page"]) or None,
    )
    text = entity["content"][int(entity["prefix"]) :]
    return Hit(row_id=row_id, key=DocumentKey(tenant, document_id), version=version, chunk=chunk, text=text)
