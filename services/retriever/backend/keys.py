"""Names of rows, and the filters that keep tenants apart.

Whatever comes from outside is percent-encoded before it is stored or compared, so that a filter holds nothing but
letters, digits and a few marks, whatever a tenant or a group is called: Milvus Lite does not read the escapes of JSON
strings (it takes "\\\\n" for a backslash and an n).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from services.retriever.domain import Condition, DocumentKey, Filter, View
from tandem.security import Principal

PUBLIC = "*"  # the mark of a document that is open to its whole tenant; no encoded group looks like it
ALWAYS, NEVER = -(2**62), 2**62
MAX_ENCODED = 240


def encode(name: str) -> str:
    """Returns a name of at most MAX_ENCODED characters out of A-Z a-z 0-9 _ . - % and !, one for each name."""
    plain = quote(name, safe="").replace("~", "%7E")  # which means something in a path into JSON
    if len(plain) <= MAX_ENCODED:
        return plain
    return "!" + hashlib.sha256(name.encode()).hexdigest()  # quote leaves no "!" in a plain one


def document_row(key: DocumentKey) -> str:
    """Returns the primary key of a document; within a tenant it sorts as the document ids do."""
    return f"{encode(key.tenant)}/{key.document_id}"


def part_rows(row: str, version: str, count: int) -> list[str]:
    """Returns the primary keys of a version's chunks, or of the parts of its text."""
    return [part_row(row, version, number) for number in range(count)]


def part_row(row: str, version: str, number: int) -> str:
    """Returns the primary key of one chunk of a version, or of one part of its text."""
    return f"{row}/{version}/{number:06d}"


def group_marks(groups: Iterable[str]) -> list[str]:
    """Returns what a document's row holds about who may see it."""
    return sorted({f"g:{encode(group)}" for group in groups}) or [PUBLIC]


def labels(attributes: Mapping[str, str]) -> dict[str, str | int]:
    """Returns what a chunk's row holds about its document's attributes: that a key is there, and its value."""
    marks: dict[str, str | int] = {_has(key): 1 for key in attributes}
    return marks | {_value(key): encode(value) for key, value in attributes.items()}


def _has(key: str) -> str:
    return f"k:{encode(key)}"


def _value(key: str) -> str:
    return f"v:{encode(key)}"


def visible(principal: Principal) -> str:
    """Returns the filter for rows that the principal may see."""
    marks = [PUBLIC, *sorted(f"g:{encode(group)}" for group in principal.groups)]
    return f"tenant == {literal(encode(principal.tenant))} and array_contains_any(groups, {literal(marks)})"


def in_view(view: View) -> str:
    """Returns the filter for chunks that the principal may see, that are in force at the moment and are wanted."""
    seen = f"{visible(view.principal)} and valid_from <= {view.moment:d} and valid_until > {view.moment:d}"
    return " and ".join([seen, *_wanted(view.filter)])


def _wanted(wanted: Filter) -> list[str]:
    terms = []
    if wanted.document_ids:
        terms.append(f"document in {_names(wanted.document_ids)}")
    if wanted.media_types:
        terms.append(f"media_type in {_names(wanted.media_types)}")
    if wanted.updated_since is not None:
        terms.append(f"updated >= {wanted.updated_since:d}")
    return terms + [_condition(condition) for condition in wanted.conditions]


def _names(names: Iterable[str]) -> str:
    return literal(sorted(map(encode, names)))


def _condition(condition: Condition) -> str:
    # Milvus Lite has no "not" but that of "not in", which holds where the label is missing.
    verb = "not in" if condition.excluded else "in"
    if condition.values:
        return f"labels[{literal(_value(condition.key))}] {verb} {_names(condition.values)}"
    return f"labels[{literal(_has(condition.key))}] {verb} [1]"


def literal(value: str | Sequence[str]) -> str:
    """Returns a string or a list of strings as Milvus' filters write it."""
    return json.dumps(value, ensure_ascii=False)
