"""The filters, judged by a small reading of Milvus' expression language."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.retriever.backend.keys import document_row, encode, group_marks, in_view, labels, part_rows, visible
from services.retriever.backend.rows import (
    PART_CHARACTERS,
    around,
    chunk_rows,
    covering,
    cut_out,
    document_to_row,
    entity_to_hit,
    row_to_document,
    text_rows,
)
from services.retriever.domain import (
    INITIAL,
    Chunk,
    Condition,
    Cut,
    DocumentKey,
    Filter,
    Header,
    Hit,
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

_NAME = r'"[A-Za-z0-9_.%!:*-]*"'
_LIST = rf"\[{_NAME}(?:, {_NAME})*\]"
_TERMS: list[tuple[str, Callable[[dict[str, Any], Any], bool]]] = [
    (rf"tenant == (?P<value>{_NAME})", lambda row, value: row["tenant"] == value),
    (rf"array_contains_any\(groups, (?P<value>{_LIST})\)", lambda row, value: not {*value}.isdisjoint(row["groups"])),
    (r"valid_from <= (?P<value>-?\d+)", lambda row, value: row["valid_from"] <= value),
    (r"valid_until > (?P<value>-?\d+)", lambda row, value: row["valid_until"] > value),
    (rf"document in (?P<value>{_LIST})", lambda row, value: row["document"] in value),
    (rf"media_type in (?P<value>{_LIST})", lambda row, value: row["media_type"] in value),
    (r"updated >= (?P<value>-?\d+)", lambda row, value: row["updated"] >= value),
]


_LABEL = re.compile(rf"labels\[(?P<path>{_NAME})\] (?P<verb>in|not in) (?P<value>{_LIST}|\[1\])")


def allows(where: str, row: dict[str, Any]) -> bool:
    """Evaluates a filter on a row; one of another shape, or whose first terms are not the identity, is a fault."""
    terms = where.split(" and ")
    assert terms[0].startswith("tenant == ")
    assert terms[1].startswith("array_contains_any(groups, ")
    results = []
    for term in terms:
        if match := _LABEL.fullmatch(term):
            held = row["labels"].get(json.loads(match["path"]))
            results.append((held in json.loads(match["value"])) is not (match["verb"] == "not in"))
            continue
        found = [(match, judge) for shape, judge in _TERMS if (match := re.fullmatch(shape, term))]
        assert len(found) == 1, term
        match, judge = found[0]
        results.append(judge(row, json.loads(match["value"])))
    return all(results)


def stored(tenant: str, header: Header, text: str = "text", *, document_id: str = "doc-1") -> NewDocument:
    document = StoredDocument(
        key=DocumentKey(tenant, document_id),
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


values = st.sampled_from(["", *HOSTILE]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.sampled_from(["k", "a=b", "a", *HOSTILE])
attributes = st.dictionaries(keys, values, max_size=4)
conditions = st.builds(Condition, keys, st.frozensets(values, max_size=3), st.booleans())
ids = st.sampled_from(["a", "a.b", "a-b", "z" * 128])
media_types = st.sampled_from(["text/plain", "text/markdown", *HOSTILE])


@given(ids, attributes, media_types, st.lists(conditions, max_size=3), st.sets(ids), st.sets(media_types), times)
def test_a_filter_in_milvus_says_what_it_says_in_the_domain(
    document_id: str,
    given_attributes: dict[str, str],
    media_type: str,
    wanted: list[Condition],
    wanted_ids: set[str],
    wanted_types: set[str],
    since: int | None,
) -> None:
    header = Header(source="s", media_type=media_type, attributes=given_attributes)
    new = stored("t", header, document_id=document_id)
    narrowing = Filter(
        document_ids=frozenset(wanted_ids),
        media_types=frozenset(wanted_types),
        conditions=tuple(wanted),
        updated_since=since,
    )
    row = chunk_rows(new.document, new.chunks[INITIAL])[0]
    assert len(row["labels"]) == 2 * len(given_attributes)
    for tenant in ("t", "u"):
        view = View(Principal("s", tenant), 0, narrowing)
        assert (
            allows(in_view(view), row) == view.shows(new.document) == (tenant == "t" and narrowing.admits(new.document))
        )


@given(values, values, keys, keys)
def test_labels_stay_apart(one: str, other: str, key: str, other_key: str) -> None:
    same = (one, key) == (other, other_key)
    assert (labels({key: one}) == labels({other_key: other})) == same


@given(names, names)
def test_names_stay_apart_and_plain(one: str, other: str) -> None:
    assert (encode(one) == encode(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.%!-]{1,240}", encode(one))
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
    hit = entity_to_hit(tenant, {"distance": 0.5, "entity": chunk_rows(new.document, new.chunks[INITIAL])[0]})
    chunk = new.chunks[INITIAL][0].chunk
    assert hit == Hit(hit.row_id, new.document.key, "ab12", chunk, new.text, ordinal=0, score=0.5)


@given(st.text(min_size=1, max_size=9), st.data())
def test_an_excerpt_is_read_by_the_parts_it_lies_in(text: str, data: st.DataObject) -> None:
    new = stored("t", Header(source="s", media_type="text/plain"), text * 5_000)
    start = data.draw(st.integers(0, len(new.text) - 1))
    end = data.draw(st.integers(start + 1, len(new.text)))
    rows = {row["id"]: row["text"] for row in text_rows(new, "")}
    wanted = covering(new.document, start, end)
    assert cut_out([rows[row_id] for row_id in wanted], start, end) == new.text[start:end]
    assert len(wanted) <= (end - start) // PART_CHARACTERS + 2


def test_a_hits_neighbours_are_named_by_its_own_key() -> None:
    new = stored("t/x", Header(source="s", media_type="text/plain"))
    row = document_row(new.document.key)
    every = part_rows(row, "ab12", 6)
    hit = Hit(every[4], new.document.key, "ab12", Chunk(0, 1), "x", ordinal=4)
    assert around(hit, 1) == every[3:6]
    assert around(replace(hit, row_id=every[1], ordinal=1), 2) == every[0:4]


def test_row_keys_sort_as_document_ids_and_fit() -> None:
    ids = ["a", "a-", "a.b", "a0", "a_", "z" * 128]
    rows = [document_row(DocumentKey("t" * 300, document_id)) for document_id in sorted(ids)]
    assert rows == sorted(rows)
    assert max(len(row) for row in part_rows(rows[-1], "f" * 32, 1)) <= 512
