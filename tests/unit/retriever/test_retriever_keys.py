"""The filters, judged by a small reading of Milvus' expression language."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.retriever.backend.keys import document_row, encode, group_marks, in_view, part_rows, visible
from services.retriever.backend.rows import chunk_rows, document_to_row, entity_to_hit, row_to_document, text_rows
from services.retriever.domain import (
    INITIAL,
    Chunk,
    Cut,
    DocumentKey,
    Header,
    NewChunk,
    NewDocument,
    StoredDocument,
    View,
)
from tandem.security import Principal

HOSTILE = [
    '"', "\\", '\\"', '" or tenant != "', '"]) or true or array_contains_any(groups, ["*"', "*", "g:*", "%", "_", "{x}",
    "a/b", "/", "\n", "\x00", "日本", "🙂", "'", "!", "~", "!" + "0" * 64, "x" * 241, "é" * 1024, " ", "..",
]  # fmt: skip
names = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
groups = st.frozensets(names, max_size=4)
times = st.none() | st.integers(-(10**9), 10**9)

_SHAPE = re.compile(
    r'tenant == "([A-Za-z0-9_.~%!-]+)" and array_contains_any\(groups, (\["[A-Za-z0-9_.~%!:*, "-]*"\])\)'
    r"(?: and valid_from <= (-?\d+) and valid_until > (-?\d+))?"
)


def allows(where: str, row: dict[str, Any]) -> bool:
    """Evaluates a filter on a row; a filter of another shape is a fault by itself."""
    match = _SHAPE.fullmatch(where)
    assert match is not None, where
    tenant, marks, since, until = match.groups()
    shown = row["tenant"] == tenant and not set(json.loads(marks)).isdisjoint(row["groups"])
    return shown and (since is None or (row["valid_from"] <= int(since) and row["valid_until"] > int(until)))


def stored(tenant: str, header: Header, text: str = "text") -> NewDocument:
    document = StoredDocument(
        key=DocumentKey(tenant, "doc-1"),
        header=header,
        version="ab12",
        content_sha256="0" * 64,
        header_sha256="1" * 64,
        num_chunks=1,
        num_characters=len(text),
        update_time=7,
        cuts={INITIAL: Cut(1, "ab")},
    )
    chunk = Chunk(start=0, end=len(text), headings=("A", 'B"|/'), page=3)
    return NewDocument(
        document=document,
        text=text,
        chunks={INITIAL: [NewChunk(chunk=chunk, content=f"title\n{text}", prefix_length=6, vector=[1.0, 0.0])]},
    )


@given(names, names, groups, groups, times, times, st.integers(-(10**9), 10**9))
def test_the_filter_allows_exactly_what_the_domain_allows(
    owner: str,
    asking: str,
    held: frozenset[str],
    given_groups: frozenset[str],
    since: int | None,
    until: int | None,
    moment: int,
) -> None:
    header = Header(
        source="s.md", media_type="text/markdown", groups=tuple(given_groups), valid_from=since, valid_until=until
    )
    for tenant in (owner, asking):
        new = stored(tenant, header)
        principal = Principal("s", asking, held)
        shown = new.document.open_to(principal)
        row = document_to_row(new.document)
        assert allows(visible(principal), row) == shown
        chunk = chunk_rows(new.document, new.chunks[INITIAL])[0]
        assert allows(in_view(View(principal, moment)), chunk) == (shown and new.document.valid_at(moment))


@given(names, names)
def test_names_stay_apart_and_plain(one: str, other: str) -> None:
    assert (encode(one) == encode(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.~%!-]{1,240}", encode(one))
    assert "*" not in group_marks([one])
    assert group_marks([]) == ["*"]
    assert (document_row(DocumentKey(one, "a")) == document_row(DocumentKey(other, "a"))) == (one == other)


@given(names, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_rows_come_back_as_they_went(tenant: str, text: str) -> None:
    header = Header(
        source="s", media_type="text/plain", title=text, groups=("b", "a"), valid_from=5, attributes={"k": text}
    )
    new = stored(tenant, header, text * 300)
    assert row_to_document(document_to_row(new.document), live=INITIAL) == new.document
    assert "".join(row["text"] for row in text_rows(new, "")) == new.text
    hit = entity_to_hit(tenant, {"entity": chunk_rows(new.document, new.chunks[INITIAL])[0]})
    assert (hit.key, hit.version, hit.chunk, hit.text) == (
        new.document.key,
        new.document.version,
        new.chunks[0].chunk,
        new.text,
    )


def test_row_keys_sort_as_document_ids_and_fit() -> None:
    ids = ["a", "a-", "a.b", "a0", "a_", "z" * 128]
    rows = [document_row(DocumentKey("t" * 300, document_id)) for document_id in sorted(ids)]
    assert rows == sorted(rows)
    assert max(len(row) for row in part_rows(rows[-1], "f" * 32, 1)) <= 512
