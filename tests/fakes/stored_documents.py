"""Makes document versions for tests of the store."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

from services.retriever.domain import (
    INITIAL,
    Chunk,
    DocumentKey,
    Header,
    NewChunk,
    NewDocument,
    StoredDocument,
    Vector,
    View,
)
from tandem.security import Principal
from tests.fakes.retriever import DIMENSION, embed

NOW = 1_750_000_000_000_000
_VERSIONS = itertools.count()


def principal(tenant: str, *groups: str) -> Principal:
    """Returns somebody of a tenant."""
    return Principal("erin", tenant, frozenset(groups), frozenset({"user", "editor"}))


def view(tenant: str, *groups: str) -> View:
    """Returns what somebody of a tenant sees now."""
    return View(principal(tenant, *groups), NOW)


def document(
    tenant: str, document_id: str, *texts: str, vectors: Sequence[Vector] = (), update_time: int = NOW, **header: object
) -> NewDocument:
    """Returns a new version, each text being a chunk under the heading of its place."""
    whole = "\n".join(texts)
    title = str(header.get("title", document_id))
    fields = {"source": f"{document_id}.txt", "media_type": "text/plain", "title": title, **header}
    stored = StoredDocument(
        key=DocumentKey(tenant, document_id),
        header=Header(**fields),
        version=f"v{next(_VERSIONS)}",
        content_sha256="0" * 64,
        header_sha256="1" * 64,
        num_chunks=len(texts),
        num_characters=len(whole),
        update_time=update_time,
    )
    chunks, start = [], 0
    for number, text in enumerate(texts):
        content = f"{title}\n{text}"
        vector = vectors[number] if vectors else embed(content)
        chunk = Chunk(start=start, end=start + len(text), headings=("Part", str(number)), page=number + 1)
        chunks.append(NewChunk(chunk=chunk, content=content, prefix_length=len(title) + 1, vector=vector))
        start += len(text) + 1
    return NewDocument(document=stored, text=whole, chunks={INITIAL: chunks})


def anew(old: NewDocument, **header: object) -> NewDocument:
    """Returns another version of a document with another header."""
    changed = replace(old.document.header, **header)
    stored = replace(old.document, header=changed, version=f"v{next(_VERSIONS)}")
    return replace(old, document=stored)


def random_vectors(count: int, *, seed: int) -> list[list[float]]:
    """Returns vectors that no two of are near each other."""
    source = random.Random(seed)
    return [[source.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(count)]
