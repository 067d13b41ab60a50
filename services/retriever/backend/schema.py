"""The collections, and what must be right about them before anything is read or written.

    <name>_s_<key>     a snapshot, one row a chunk: what searches filter by, the text, the dense and the BM25 vector
    <name>_documents   one row a document: its header, the version that is live, and the snapshots that have it
    <name>_texts       extracted texts and their outlines in parts, for a VARCHAR ends at 65,535 bytes
    <name>_meta        the schema's version, the catalogue of snapshots, and what is known of writes under way

Milvus wants a vector in every collection; those that need none have two zeros.
"""

import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from services.retriever.config import RetrieverConfig
from tandem.errors import ConfigError

SCHEMA_VERSION = 2
NO_VECTOR = [0.0, 0.0]
ROW_BYTES, VARCHAR_BYTES, MAX_GROUPS = 512, 65_535, 33
# The longest encoded name with its mark, see keys.py.
_NAME_BYTES = 256


@dataclass(frozen=True)
class Names:
    """Names the collections."""

    prefix: str
    documents: str
    texts: str
    meta: str

    @classmethod
    def of(cls, name: str) -> "Names":
        """Returns the names that belong to RETRIEVER_COLLECTION."""
        return cls(prefix=f"{name}_s_", documents=f"{name}_documents", texts=f"{name}_texts", meta=f"{name}_meta")

    def chunks_of(self, key: str) -> str:
        """Returns the name of a snapshot's collection."""
        return f"{self.prefix}{key}"


def prepare(client: Any, names: Names, *, config: RetrieverConfig, embedded: bool, timeout: float) -> None:
    """Makes the collections that all snapshots share and loads them; raises ConfigError when they do not fit."""
    existing = set(client.list_collections(timeout=timeout))
    for name, fields in (
        (names.meta, _meta_fields),
        (names.documents, _document_fields),
        (names.texts, _text_fields),
    ):
        if name not in existing:
            _create(client, name, fields=fields, config=config, embedded=embedded, timeout=timeout)
        client.load_collection(name, timeout=timeout)
        if name == names.meta:
            _check_version(client, names, timeout=timeout)


def make_chunks(client: Any, name: str, *, config: RetrieverConfig, embedded: bool, timeout: float) -> None:
    """Makes the collection of a snapshot, whose analyzer and dimension are those of config."""
    fields = partial(_chunk_fields, bm25=embedded or _server_has_bm25(client, timeout=timeout))
    _create(client, name, fields=fields, config=config, embedded=embedded, timeout=timeout)


def ranks_by_bm25(client: Any, chunks: str, *, timeout: float) -> bool:
    """Tells whether a collection of chunks was made with BM25."""
    fields = client.describe_collection(chunks, timeout=timeout)["fields"]
    return any(field["name"] == "sparse" for field in fields)


def _server_has_bm25(client: Any, *, timeout: float) -> bool:
    """Tells whether a server makes BM25 vectors by itself: Milvus 2.5 was the first."""
    version = re.match(r"v?(\d+)\.(\d+)", client.get_server_version(timeout=timeout))
    return version is None or (int(version[1]), int(version[2])) >= (2, 5)


def check_dimension(client: Any, name: str, *, config: RetrieverConfig, timeout: float) -> None:
    """Raises ConfigError when a collection's vectors have not the configured number of components."""
    fields = client.describe_collection(name, timeout=timeout)["fields"]
    held = next((int(field["params"]["dim"]) for field in fields if field["name"] == "dense"), None)
    if held != config.dimension:
        raise ConfigError(
            f"collection {name!r} holds vectors of {held} components, RETRIEVER_DIMENSION is "
            f"{config.dimension}. Set it to {held} and run the embedder with the model that the collection was made "
            "with, or set RETRIEVER_COLLECTION to a new name and ingest the documents again"
        )


def meta_row(row_id: str, value: str) -> dict[str, Any]:
    """Returns a row of <name>_meta that is made now."""
    return {"id": row_id, "value": value, "created": time.time_ns() // 1000, "vector": NO_VECTOR}


def _check_version(client: Any, names: Names, *, timeout: float) -> None:
    rows = client.get(names.meta, ids=["schema"], output_fields=["value"], timeout=timeout)
    if not rows:
        client.insert(names.meta, [meta_row("schema", json.dumps({"version": SCHEMA_VERSION}))], timeout=timeout)
    elif (held := json.loads(rows[0]["value"])["version"]) != SCHEMA_VERSION:
        raise ConfigError(
            f"collection {names.meta!r} has schema version {held}, this retriever speaks {SCHEMA_VERSION}. Run the "
            "release that made it, or set RETRIEVER_COLLECTION to a new name and ingest the documents again"
        )


def _create(client: Any, name: str, *, fields: Any, config: RetrieverConfig, embedded: bool, timeout: float) -> None:
    from pymilvus import MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    index = MilvusClient.prepare_index_params()
    # Milvus Lite has FLAT and IVF_FLAT; a server chooses by itself.
    fields(schema, index, config=config, kind="FLAT" if embedded else "AUTOINDEX")
    client.create_collection(
        name, schema=schema, index_params=index, consistency_level=config.consistency, timeout=timeout
    )


def _chunk_fields(schema: Any, index: Any, *, config: RetrieverConfig, kind: str, bm25: bool) -> None:
    from pymilvus import DataType

    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ROW_BYTES)
    _visibility_fields(schema)
    schema.add_field("document", DataType.VARCHAR, max_length=_NAME_BYTES)
    schema.add_field("media_type", DataType.VARCHAR, max_length=_NAME_BYTES)
    schema.add_field("labels", DataType.JSON)
    for name in ("valid_from", "valid_until", "updated", "span_start", "span_end", "page", "prefix"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("headings", DataType.VARCHAR, max_length=VARCHAR_BYTES)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=config.dimension)
    index.add_index("dense", index_type=kind, metric_type="COSINE")
    if bm25:
        _bm25_fields(schema, index, analyzer=config.analyzer)
    else:
        schema.add_field("content", DataType.VARCHAR, max_length=VARCHAR_BYTES)


def _bm25_fields(schema: Any, index: Any, *, analyzer: str) -> None:
    from pymilvus import DataType, Function, FunctionType

    schema.add_field(
        "content",
        DataType.VARCHAR,
        max_length=VARCHAR_BYTES,
        enable_analyzer=True,
        analyzer_params={"type": analyzer},
    )
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25",
            function_type=FunctionType.BM25,
            input_field_names=["content"],
            output_field_names=["sparse"],
        )
    )
    index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")


def _document_fields(schema: Any, index: Any, *, config: RetrieverConfig, kind: str) -> None:
    from pymilvus import DataType

    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ROW_BYTES)
    _visibility_fields(schema)
    schema.add_field("version", DataType.VARCHAR, max_length=64)
    schema.add_field("record", DataType.VARCHAR, max_length=VARCHAR_BYTES)
    _no_vector(schema, index)


def _text_fields(schema: Any, index: Any, *, config: RetrieverConfig, kind: str) -> None:
    from pymilvus import DataType

    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ROW_BYTES)
    schema.add_field("text", DataType.VARCHAR, max_length=VARCHAR_BYTES)
    _no_vector(schema, index)


def _meta_fields(schema: Any, index: Any, *, config: RetrieverConfig, kind: str) -> None:
    from pymilvus import DataType

    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ROW_BYTES)
    schema.add_field("value", DataType.VARCHAR, max_length=VARCHAR_BYTES)
    schema.add_field("created", DataType.INT64)
    _no_vector(schema, index)


def _visibility_fields(schema: Any) -> None:
    from pymilvus import DataType

    schema.add_field("tenant", DataType.VARCHAR, max_length=_NAME_BYTES)
    schema.add_field(
        "groups", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MAX_GROUPS, max_length=_NAME_BYTES
    )


def _no_vector(schema: Any, index: Any) -> None:
    from pymilvus import DataType

    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=len(NO_VECTOR))
    index.add_index("vector", index_type="FLAT", metric_type="L2")
