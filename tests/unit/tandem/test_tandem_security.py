"""Tokens, principals and files that only their owner may read."""

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import ConfigError, Unauthenticated
from tandem.security import ROLES, Principal, TokenFile, issue, write_secret

ALICE = Principal("alice", "halden", frozenset({"claims"}), frozenset({"user"}))
BRAM = Principal("bram", "brightwater", frozenset(), frozenset({"user", "editor"}))
WORDS = st.text(min_size=1, max_size=20)


def replace(path: Path, text: str) -> None:
    """Rewrites a file with a stamp that differs for sure."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    write_secret(path, text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


@given(
    subject=WORDS, tenant=WORDS, groups=st.frozensets(WORDS), roles=st.frozensets(st.sampled_from(ROLES))
)  # fmt: skip
def test_a_principal_survives_the_trip(
    subject: str, tenant: str, groups: frozenset[str], roles: frozenset[str]
) -> None:
    sent = Principal(subject, tenant, groups, roles)
    assert Principal.from_json(sent.to_json().encode()) == sent


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "7", "null", "{}", '{"subject": "a"}', '{"subject": "", "tenant": "t"}',
        '{"subject": "a", "tenant": ""}', '{"subject": 1, "tenant": "t"}',
        '{"subject": "a", "tenant": "t", "roles": ["king"]}', '{"subject": "a", "tenant": "t", "groups": "all"}',
        '{"subject": "a", "tenant": "t", "groups": [["x"]]}', '{"subject": "a", "tenant": "t", "roles": {"user": 1}}',
        '{"subject": "\\ud800", "tenant": "t"}', b"\xff\xfe", "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_principal_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        Principal.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["subject", "tenant", "groups", "roles"]), inner),
)


@given(JSON)
def test_any_json_is_a_principal_or_a_value_error(row: object) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(Principal.from_json(json.dumps(row)), Principal)


def test_tokens_resolve_and_are_not_in_the_file(tmp_path: Path) -> None:
    text, tokens = issue({"a": ALICE, "b": BRAM})
    write_secret(tmp_path / "tokens.json", text)
    known = TokenFile(tmp_path / "tokens.json")
    assert (known.resolve(tokens["a"]), known.resolve(tokens["b"])) == (ALICE, BRAM)
    assert tokens["a"] != tokens["b"]
    assert all(token not in text and len(token) >= 43 for token in tokens.values())


@pytest.mark.parametrize("token", ["", "x", "alice", "\ud800", "é" * 100, "a" * 100_000])
def test_unknown_tokens_are_refused(tmp_path: Path, token: str) -> None:
    write_secret(tmp_path / "tokens.json", issue({"a": ALICE})[0])
    with pytest.raises(Unauthenticated):
        TokenFile(tmp_path / "tokens.json").resolve(token)


def test_the_hash_is_not_a_token(tmp_path: Path) -> None:
    text, _ = issue({"a": ALICE})
    write_secret(tmp_path / "tokens.json", text)
    with pytest.raises(Unauthenticated):
        TokenFile(tmp_path / "tokens.json").resolve(json.loads(text)["tokens"][0]["token_sha256"])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first, old = issue({"a": ALICE})
    replace(path, first)
    known = TokenFile(path)
    second, new = issue({"a": BRAM})
    replace(path, second)
    assert known.resolve(new["a"]) == BRAM
    with pytest.raises(Unauthenticated):
        known.resolve(old["a"])


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"tokens": 7}', '{"tokens": [{"token_sha256": "x"}]}', None])
def test_a_broken_file_keeps_the_old_tokens_until_it_is_mended(tmp_path: Path, broken: str | None) -> None:
    path = tmp_path / "tokens.json"
    first, tokens = issue({"a": ALICE})
    replace(path, first)
    known = TokenFile(path)
    if broken is None:
        path.unlink()
    else:
        replace(path, broken)
    assert known.resolve(tokens["a"]) == ALICE
    with pytest.raises(Unauthenticated):
        known.resolve("other")
    second, new = issue({"b": BRAM})
    replace(path, second)
    os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    assert known.resolve(new["b"]) == BRAM


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tokens": {"a": 1}}', '{"tokens": [{"subject": "a"}]}'])
def test_a_broken_file_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(ConfigError, match="is not a token file"):
        TokenFile(tmp_path / "tokens.json")


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the token file"):
        TokenFile(tmp_path / "none.json")


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "deep" / "secret", "one")
        write_secret(tmp_path / "deep" / "secret", "two")
    finally:
        os.umask(before)
    path = tmp_path / "deep" / "secret"
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [item.name for item in path.parent.iterdir()] == ["secret"]


def test_a_scratch_file_left_by_a_crash_lends_its_mode_to_nobody(tmp_path: Path) -> None:
    scratch = tmp_path / f".secret.{os.getpid()}"
    scratch.write_text("left over")
    scratch.chmod(0o644)
    write_secret(tmp_path / "secret", "text")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
