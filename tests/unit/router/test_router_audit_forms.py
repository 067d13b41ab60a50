"""The forms that records are hashed in: canonical JSON, and moments as text."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.audit import canonical, parse_timestamp
from services.router.audit.records import timestamp

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_is_read_back_and_written_the_same(value: Any) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text


@pytest.mark.parametrize("value", [0.5, {"a": [1.0]}, float("nan"), {1: 2}, b"x", object()])
def test_canonical_json_refuses_what_has_two_spellings(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_moments_order_as_text_as_in_time(one: datetime, two: datetime) -> None:
    assert (timestamp(one) < timestamp(two)) == (one < two)
    assert parse_timestamp(timestamp(one)) == one
