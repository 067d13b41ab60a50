"""Names of rows, and the filters that keep tenants apart.

Whatever comes from outside is percent-encoded before it is stored or compared, so that a filter holds nothing but
letters, digits and a few marks, whatever a tenant or a group is called: Milvus Lite does not read the escapes of JSON
strings (it takes "\\\\n" for a backslash and an n).
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from services.retriever.domain import DocumentKey, View
from tandem.security import Principal

PUBLIC = "*"  # the mark of a document that is open to its whole tenant; no encoded group looks like it
ALWAYS, NEVER = -(2**62), 2**62
MAX_ENCODED = 240


def encode(name: str) -> str:
    """Returns a name of at most MAX_ENCODED characters out of A-Z a-z 0-9 _ . - ~ % and !, one for each name."""
    plain = quote(name, safe="")
    if len(plain) <= MAX_ENCODED:
        return plain
    return "!" + hashlib.sha256(name.encode()).hexdigest()  # quote leaves no "!" in a plain one


def document_row(key: DocumentKey) -> str:
    """Returns the primary key of a document; within a tenant it sorts as the document ids do."""
    return f"{encode(key.tenant)}/{key.document_id}"


def part_rows(row: str, version: str, count: int) -> list[str]:
    """Returns the primary keys of a version's chunks, or of the parts of its text."""
    return [f"{row}/{version}/{number:06d}" for number in range(count)]


def group_marks(groups: Iterable[str]) -> list[str]:
    """Returns what a document's row holds about who may see it."""
    return sorted({f"g:{encode(group)}" for group in groups}) or [PUBLIC]


def visible(principal: Principal) -> str:
    """Returns the filter for rows that the principal may see."""
    marks = [PUBLIC, *sorted(f"g:{encode(group)}" for group in principal.groups)]
    return f"tenant == {literal(encode(principal.tenant))} and array_contains_any(groups, {literal(marks)})"


def in_view(view: View) -> str:
    """Returns the filter for chunks that the principal may see and that are in force at the view's moment."""
    return f"{visible(view.principal)} and valid_from <= {view.moment:d} and valid_until > {view.moment:d}"


def literal(value: str | Sequence[str]) -> str:
    """Returns a string or a list of strings as Milvus' filters write it."""
    return json.dumps(value, ensure_ascii=False)
